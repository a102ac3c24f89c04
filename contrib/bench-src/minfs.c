/* The least file system that libfuse3 can serve: one file `state` that reads "Stopped". What limafs is compared with.
 *   minfs MOUNTPOINT     in the foreground, one thread
 */
#define FUSE_USE_VERSION 31
#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static const char text[] = "Stopped\n";
enum { STATE = 2 };

static int attributes(fuse_ino_t ino, struct stat *st) {
    memset(st, 0, sizeof *st);
    st->st_ino = ino;
    if (ino == FUSE_ROOT_ID) {
        st->st_mode = S_IFDIR | 0700;
        st->st_nlink = 2;
    } else if (ino == STATE) {
        st->st_mode = S_IFREG | 0600;
        st->st_nlink = 1;
        st->st_size = sizeof text - 1;
    } else {
        return -1;
    }
    return 0;
}

static void fs_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi) {
    struct stat st;
    (void)fi;
    if (attributes(ino, &st))
        fuse_reply_err(req, ENOENT);
    else
        fuse_reply_attr(req, &st, 3600);
}

static void fs_lookup(fuse_req_t req, fuse_ino_t parent, const char *name) {
    struct fuse_entry_param entry;
    memset(&entry, 0, sizeof entry);
    if (parent != FUSE_ROOT_ID || strcmp(name, "state") != 0) {
        fuse_reply_err(req, ENOENT);
        return;
    }
    entry.ino = STATE;
    entry.attr_timeout = entry.entry_timeout = 3600;
    attributes(STATE, &entry.attr);
    fuse_reply_entry(req, &entry);
}

static void fs_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi) {
    (void)ino;
    fi->direct_io = 1; /* as a file whose content changes has to be */
    fuse_reply_open(req, fi);
}

static void fs_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi) {
    size_t length = sizeof text - 1;
    (void)ino;
    (void)fi;
    if ((size_t)offset >= length)
        fuse_reply_buf(req, NULL, 0);
    else
        fuse_reply_buf(req, text + offset, size < length - offset ? size : length - offset);
}

static const struct fuse_lowlevel_ops operations = {
    .lookup = fs_lookup, .getattr = fs_getattr, .open = fs_open, .read = fs_read};

int main(int argc, char **argv) {
    char *words[] = {argv[0], NULL};
    struct fuse_args args = FUSE_ARGS_INIT(1, words);
    struct fuse_session *session = argc == 2 ? fuse_session_new(&args, &operations, sizeof operations, NULL) : NULL;
    if (!session || fuse_set_signal_handlers(session) || fuse_session_mount(session, argv[1])) {
        fprintf(stderr, "usage: minfs MOUNTPOINT\n");
        return 1;
    }
    int failed = fuse_session_loop(session);
    fuse_session_unmount(session);
    fuse_remove_signal_handlers(session);
    fuse_session_destroy(session);
    return failed != 0;
}
