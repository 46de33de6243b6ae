use super::*;

const V1_MOUNTS: &str = "\
30 25 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
31 25 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
32 25 0:28 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
33 25 0:29 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
34 25 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

fn v1(memory: &str) -> String {
    format!("4:pids:/\n3:memory:{memory}\n2:freezer:/\n1:cpu,cpuacct:/a\n0::/\n")
}

#[test]
fn a_hybrid_host_is_version_1() {
    let (tree, missing) = find(&v1("/x/y"), V1_MOUNTS, &|_| String::new());
    let Tree::V1(groups) = tree else { panic!("{tree:?}") };
    assert!(missing.is_empty());
    assert!(groups.contains(&(Controller::Memory, "/sys/fs/cgroup/memory/x/y".into())));
    assert!(groups.contains(&(Controller::Cpu, "/sys/fs/cgroup/cpu/a".into())));
}

#[test]
fn a_pure_version_2_host_and_what_it_lacks() {
    let mounts = "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
    let (tree, missing) = find("0::/system.slice/hob.service\n", mounts, &|_| "cpu io memory pids\n".to_owned());
    assert_eq!(tree, Tree::V2("/sys/fs/cgroup/system.slice/hob.service".into()));
    assert!(missing.is_empty());
    let (tree, missing) = find("0::/a\n", mounts, &|_| "memory pids".to_owned());
    assert_eq!((tree, missing), (Tree::V2("/sys/fs/cgroup/a".into()), vec!["cpu"]));
    let (tree, missing) = find("0::/a\n", mounts, &|_| String::new());
    assert_eq!((tree, missing.len()), (Tree::None, 4));
}

#[test]
fn a_mount_that_shows_a_part_only() {
    let mount = Mount { root: "/docker/abc", at: "/sys/fs/cgroup/memory", kind: "cgroup", options: "memory" };
    assert_eq!(mount.place("/docker/abc/x"), Some("/sys/fs/cgroup/memory/x".into()));
    assert_eq!(mount.place("/docker/abc"), Some("/sys/fs/cgroup/memory".into()));
    assert_eq!(mount.place("/docker/other"), None);
    let whole = Mount { root: "/", at: "/cg", kind: "cgroup2", options: "" };
    assert_eq!(whole.place("/../elsewhere"), None);
}

/// A folder that looks like a group: files are made by being written.
struct Fake(PathBuf);

impl Fake {
    fn new(name: &str) -> Fake {
        let path = std::env::temp_dir().join(format!("hob-cgroup-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a folder");
        Fake(path)
    }

    fn slot(&self, v2: bool) -> Slot {
        for file in ["cgroup.procs", "freezer.state"] {
            fs::write(self.0.join(file), "").expect("a file");
        }
        let folders = if v2 { vec![(Controller::Memory, self.0.clone())] } else { CONTROLLERS.iter().map(|(c, _)| (*c, self.0.clone())).collect() };
        Slot::make(1, folders, v2).expect("a slot")
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn limits_in_the_words_of_version_1() {
    let fake = Fake::new("v1");
    let mut slot = fake.slot(false);
    slot.set(Limits { memory_bytes: 64 << 20, cpu_milli: 500, pids: 50 }).expect("set");
    assert_eq!(fake.read("memory.limit_in_bytes"), "67108864");
    assert_eq!(fake.read("memory.memsw.limit_in_bytes"), "67108864");
    assert_eq!((fake.read("pids.max").as_str(), fake.read("cpu.cfs_quota_us").as_str()), ("50", "50000"));
    slot.set(Limits::default()).expect("set");
    assert_eq!((fake.read("memory.limit_in_bytes").as_str(), fake.read("pids.max").as_str(), fake.read("cpu.cfs_quota_us").as_str()), ("-1", "max", "-1"));
    assert!(slot.files.freezer.is_some() && slot.files.procs.len() == 4);
}

#[test]
fn limits_in_the_words_of_version_2() {
    let fake = Fake::new("v2");
    let mut slot = fake.slot(true);
    slot.set(Limits { memory_bytes: 1 << 20, cpu_milli: 1, pids: 0 }).expect("set");
    assert_eq!((fake.read("memory.max").as_str(), fake.read("memory.swap.max").as_str(), fake.read("memory.oom.group").as_str()), ("1048576", "0", "1"));
    assert_eq!((fake.read("cpu.max").as_str(), fake.read("pids.max").as_str()), ("1000 100000", "max"), "not below the kernel's least");
    assert!(slot.files.procs.len() == 1 && slot.files.freezer.is_none(), "one group holds everything");
}

#[test]
fn a_slot_is_given_again_thawed() {
    for (v2, file, frozen, thawed) in [(false, "freezer.state", "FROZEN", "THAWED"), (true, "cgroup.freeze", "1", "0")] {
        let fake = Fake::new(file);
        fs::write(fake.0.join(file), thawed).expect("written");
        let groups = Cgroups { tree: Tree::None, missing: Vec::new(), name: String::new(), free: Mutex::default() };
        let slot = fake.slot(v2);
        fs::write(fake.0.join(file), frozen).expect("written");
        groups.give(slot);
        let slot = groups.take().expect("used before");
        // Not truncated, as a file of the kernel's is not either.
        assert!(fake.read(file).starts_with(thawed), "{}", fake.read(file));
        drop(slot);
    }
}

#[test]
fn a_kill_for_memory_is_seen_once() {
    for (v2, file) in [(false, "memory.oom_control"), (true, "memory.events")] {
        let fake = Fake::new(file);
        fs::write(fake.0.join(file), "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n").expect("written");
        let mut slot = fake.slot(v2);
        assert!(!slot.oom_killed(), "what was before does not count");
        fs::write(fake.0.join(file), "low 0\noom 3\noom_kill 3\n").expect("written");
        assert!(slot.oom_killed() && !slot.oom_killed());
    }
}

#[test]
fn a_group_with_processes_is_delegated_from_below() {
    let fake = Fake::new("delegate");
    // A plain folder accepts the first write: nothing needs to move.
    delegate(&fake.0).expect("delegated");
    assert!(fake.0.join("cgroup.subtree_control").exists() && !fake.0.join("hob-server").exists());
}

#[test]
fn cpu_time_is_counted_where_it_is_a_hierarchy_of_its_own() {
    let (tree, _) = find(&v1("/x"), V1_MOUNTS, &|_| String::new());
    let Tree::V1(groups) = tree else { panic!("{tree:?}") };
    assert!(!groups.iter().any(|(c, _)| *c == Controller::Account), "with the CPU's limits already");
    let mounts = format!("{V1_MOUNTS}35 25 0:31 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct\n").replace("rw,cpu,cpuacct", "rw,cpu");
    let (tree, missing) = find(&v1("/x").replace("1:cpu,cpuacct:/a", "1:cpu:/a\n9:cpuacct:/b"), &mounts, &|_| String::new());
    let Tree::V1(groups) = tree else { panic!("{tree:?}") };
    assert!(missing.is_empty());
    assert!(groups.contains(&(Controller::Account, "/sys/fs/cgroup/cpuacct/b".into())), "{groups:?}");
}

/// Slots are kept for ever; their descriptors are not.
#[test]
fn a_free_slot_holds_no_descriptor() {
    let parent = Fake::new("free");
    let folder = parent.0.join("slot-000001");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("cgroup.procs"), "").expect("a file");
    let groups = Cgroups { tree: Tree::V2(parent.0.clone()), missing: Vec::new(), name: "hob-x".to_owned(), free: Mutex::default() };
    for _ in 0..2 {
        let slot = groups.take().expect("a slot");
        assert_eq!((slot.number, slot.files.procs.len()), (1, 1));
        groups.give(slot);
        let free = groups.free.lock();
        assert!(free.slots.iter().all(|s| s.files.procs.is_empty() && s.files.freezer.is_none()), "{free:?}");
    }
    fs::remove_file(folder.join("cgroup.procs")).expect("removed");
    groups.take().expect_err("its file has gone");
    assert_eq!(groups.free.lock().slots.len(), 1, "the slot is not lost");
}

/// Version 2 as the kernel has it, wherever version 1 has taken the controllers:
/// entering, freezing, killing what is frozen, sweeping. Limits are words in
/// files there too (above), but only a host of version 2 obeys them.
#[test]
fn version_2_freezes_kills_and_is_swept_on_the_real_kernel() {
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::process::ExitStatusExt;

    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: not root");
        return;
    }
    let context = rustix::mount::fsopen("cgroup2", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC).expect("every kernel has it");
    rustix::mount::fsconfig_create(context.as_fd()).expect("made");
    let mount = rustix::mount::fsmount(context.as_fd(), rustix::mount::FsMountFlags::FSMOUNT_CLOEXEC, rustix::mount::MountAttrFlags::empty()).expect("mounted");
    let name = format!("hob-test-{}", std::process::id());
    let path = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd())).join(&name);
    fs::create_dir(&path).expect("a group");
    let groups = || Cgroups { tree: Tree::V2(path.clone()), missing: Vec::new(), name: name.clone(), free: Mutex::default() };
    let sleeper = |slot: &Slot| {
        #[allow(clippy::disallowed_methods, reason = "a process to be killed")]
        let child = std::process::Command::new("sleep").arg("600").spawn().expect("sleeps");
        rustix::io::write(&slot.files.procs[0], child.id().to_string().as_bytes()).expect("it enters");
        child
    };
    let ours = groups();
    let slot = ours.take().expect("a slot");
    let mut child = sleeper(&slot);
    let freezer = slot.freezer().expect("every group of version 2 has one");
    freezer.freeze().expect("frozen");
    let folder = path.join(slot_name(slot.number));
    let until = Instant::now() + Duration::from_secs(120);
    while !fs::read_to_string(folder.join("cgroup.events")).expect("read").contains("frozen 1") {
        assert!(Instant::now() < until, "not frozen");
        std::thread::yield_now();
    }
    assert_eq!(freezer.state().expect("read"), "1");
    assert_eq!(kill_group(&folder), 1);
    assert_eq!(child.wait().expect("ended").signal(), Some(9), "frozen or not");
    // A killed server's: its processes end and its slots go.
    let mut child = sleeper(&slot);
    assert_eq!(groups().sweep(), 1);
    assert_eq!(child.wait().expect("ended").signal(), Some(9));
    assert!(!folder.exists() && path.exists());
    ours.close();
    assert!(!path.exists(), "nothing is left");
}
