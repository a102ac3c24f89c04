use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use super::*;

struct World {
    _dir: tempfile::TempDir,
    home: Home,
    name: Name,
}

impl World {
    /// A home with a draft.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        let name = Name::parse("data").unwrap();
        create(&home, &name).unwrap();
        Self { _dir: dir, home, name }
    }

    fn disk(&self) -> Disk {
        list(&self.home).unwrap().remove(0)
    }

    fn instance(&self, name: &str) -> PathBuf {
        let dir = self.home.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }
}

#[test]
fn a_draft_becomes_a_sparse_disk_and_grows_but_never_shrinks() {
    let world = World::new();
    assert_eq!(world.disk(), Disk { name: world.name.clone(), image: None, claimed_by: None });
    for (size, errno) in [(64 << 20, 0), (64 << 20, 0), (96 << 20, 0), (32 << 20, libc::EINVAL)] {
        let done = set_size(&world.home, &world.name, size);
        assert_eq!(done.map_or_else(|error| error.errno(), |()| 0), errno, "{size}");
    }
    assert_eq!(world.disk().image.unwrap().1, 96 << 20);
    let meta = fs::metadata(world.home.disk(&world.name).join("datadisk")).unwrap();
    assert!(meta.blocks() * 512 < 2 << 20, "{} blocks", meta.blocks());
    assert_eq!(meta.mode() & 0o777, 0o600);
}

#[test]
fn a_raw_disk_that_was_brought_along_stays_raw_and_keeps_its_bytes() {
    let world = World::new();
    let path = world.home.disk(&world.name).join("datadisk");
    fs::write(&path, vec![7; 4096]).unwrap();
    set_size(&world.home, &world.name, 1 << 20).unwrap();
    assert_eq!(world.disk().image, Some((Format::Raw, 1 << 20)));
    assert_eq!(fs::read(&path).unwrap()[..4096], [7; 4096]);
}

#[test]
fn e24_a_claim_counts_only_while_its_instance_runs() {
    let world = World::new();
    let (one, two) = (world.instance("one"), world.instance("two"));
    assert_eq!(claim(&world.home, &world.name, &one).unwrap_err().errno(), libc::EBUSY, "a draft");
    set_size(&world.home, &world.name, 1 << 20).unwrap();
    claim(&world.home, &world.name, &one).unwrap();
    assert_eq!(world.disk().claimed_by, Some(one.clone()));

    let lock = store::Lock::try_take(&one).unwrap().unwrap();
    let refused = claim(&world.home, &world.name, &two).unwrap_err();
    assert_eq!((refused.errno(), refused.to_string().as_str()), (libc::EBUSY, "disk data: in use by one"));
    assert_eq!(set_size(&world.home, &world.name, 2 << 20).unwrap_err().errno(), libc::EBUSY);
    assert_eq!(delete(&world.home, &world.name).unwrap_err().errno(), libc::EBUSY);
    claim(&world.home, &world.name, &one).unwrap();
    drop(lock);

    claim(&world.home, &world.name, &two).unwrap();
    release(&world.home, &one).unwrap();
    assert_eq!(world.disk().claimed_by, Some(two.clone()), "somebody else's");
    release(&world.home, &two).unwrap();
    assert_eq!(world.disk().claimed_by, None);
    delete(&world.home, &world.name).unwrap();
    assert_eq!(list(&world.home).unwrap(), []);
}

#[test]
fn e24_of_many_that_claim_at_once_one_gets_it() {
    let world = World::new();
    set_size(&world.home, &world.name, 1 << 20).unwrap();
    let instances: Vec<PathBuf> = (0..8).map(|number| world.instance(&format!("vm{number}"))).collect();
    let _running: Vec<_> = instances.iter().map(|dir| store::Lock::try_take(dir).unwrap().unwrap()).collect();
    let claims = std::thread::scope(|scope| {
        let claim = |dir| claim(&world.home, &world.name, dir).is_ok();
        let threads: Vec<_> = instances.iter().map(|dir| scope.spawn(move || claim(dir))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let winner = claims.iter().position(|got| *got).unwrap();
    assert_eq!(claims.iter().filter(|got| **got).count(), 1);
    assert_eq!(world.disk().claimed_by.as_ref(), Some(&instances[winner]));
}

#[test]
fn a_pid_that_belongs_to_another_process_proves_nothing() {
    let world = World::new();
    let one = world.instance("one");
    fs::write(one.join("qemu.pid"), format!("{}\n", std::process::id())).unwrap();
    assert!(!runs(&one));
    let path = one.join("qemu.pid");
    let mut process = std::process::Command::new("tail").arg("-f").arg(&path).stdout(Stdio::null()).spawn().unwrap();
    fs::write(&path, process.id().to_string()).unwrap();
    // An exec(2) is told of before its arguments can be read.
    let deadline = Instant::now() + Duration::from_secs(60);
    while !runs(&one) && Instant::now() < deadline {
        std::thread::yield_now();
    }
    let is_running = runs(&one);
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(is_running);
    assert!(!runs(&one));
}

#[test]
fn a_disk_that_is_missing_is_named() {
    let world = World::new();
    let other = Name::parse("other").unwrap();
    let error = claim(&world.home, &other, &world.instance("one")).unwrap_err();
    assert_eq!((error.errno(), error.to_string().as_str()), (libc::ENOENT, "disk other does not exist"));
}
