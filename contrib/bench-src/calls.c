/* Times system calls on paths. Prints nanoseconds a call: the fastest batch, then the median batch.
 *   calls stat PATH     stat(2)
 *   calls read PATH     open(2), read(2), close(2)
 *   calls each PATH...  the same on each path in turn; a batch is one pass over all
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BATCHES = 200, CALLS = 200, PASSES = 20 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static void must(int ok, const char *path) {
    if (!ok) {
        perror(path);
        exit(1);
    }
}

static void stat_once(const char *path) {
    struct stat st;
    must(stat(path, &st) == 0, path);
}

static void read_once(const char *path) {
    char buffer[4096];
    int fd = open(path, O_RDONLY);
    must(fd >= 0, path);
    must(read(fd, buffer, sizeof buffer) >= 0, path);
    close(fd);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    static double times[BATCHES];
    if (argc < 3) {
        fprintf(stderr, "usage: calls stat|read PATH, calls each PATH...\n");
        return 2;
    }
    int each = strcmp(argv[1], "each") == 0;
    void (*call)(const char *) = strcmp(argv[1], "stat") == 0 ? stat_once : read_once;
    int batches = each ? PASSES : BATCHES, calls = each ? argc - 2 : CALLS;
    for (int batch = 0; batch < batches; batch++) {
        double start = now();
        for (int i = 0; i < calls; i++)
            call(argv[each ? 2 + i : 2]);
        times[batch] = (now() - start) / calls;
    }
    qsort(times, batches, sizeof *times, by_value);
    printf("%.0f %.0f\n", times[0], times[batches / 2]);
    return 0;
}
