//! Images in hob's own store: what real tools save unpacks to what they run,
//! and a kill at any moment leaves a store that works.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::harness::{Folder, engine, wait_until};

/// What the engine lays over an image when it runs.
const LAID_OVER: &[&str] = &[".dockerenv", "dev", "proc", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"];

fn hob(folder: &Folder) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hob"));
    command.env_clear().env("HOB_DATA", folder.path.join("data")).env("HOB_DRIVER", "sandbox").stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> Output {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn laid_over(path: &str) -> bool {
    LAID_OVER.iter().any(|over| path == *over || path.strip_prefix(over).is_some_and(|rest| rest.starts_with('/')))
}

/// One file in words: kind, mode without setuid bits, owner, time, content.
fn words(kind: char, mode: u32, uid: u64, gid: u64, mtime: i64, content: &[u8]) -> String {
    use sha2::Digest;
    let sum: String = sha2::Sha256::digest(content).iter().take(8).map(|b| format!("{b:02x}")).collect();
    let mtime = if kind == 'd' { 0 } else { mtime };
    let mode = if kind == 'l' { 0 } else { mode & 0o1777 };
    format!("{kind} {mode:o} {uid}:{gid} {mtime} {} {sum}", content.len())
}

/// A tree as the engine exports it.
fn exported(archive: &[u8]) -> BTreeMap<String, String> {
    let mut tree = BTreeMap::new();
    let mut links = Vec::new();
    for entry in tar::Archive::new(archive).entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").to_string_lossy().trim_matches('/').to_owned();
        let header = entry.header().clone();
        let (kind, content) = match header.entry_type() {
            tar::EntryType::Directory => ('d', Vec::new()),
            tar::EntryType::Symlink => ('l', entry.link_name_bytes().expect("a target").into_owned()),
            tar::EntryType::Link => {
                links.push((path, entry.link_name().expect("a target").expect("a target").to_string_lossy().into_owned()));
                continue;
            }
            tar::EntryType::Regular => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).expect("read");
                ('f', content)
            }
            // Devices and fifos are left out on purpose.
            _ => continue,
        };
        let number = |n: std::io::Result<u64>| n.expect("a number");
        let mtime = i64::try_from(number(header.mtime())).expect("a time");
        tree.insert(path, words(kind, header.mode().expect("a mode"), number(header.uid()), number(header.gid()), mtime, &content));
    }
    for (path, target) in links {
        let same = tree[target.trim_matches('/')].clone();
        tree.insert(path, same);
    }
    tree.retain(|path, _| !path.is_empty() && !laid_over(path));
    tree
}

/// A tree as it was unpacked.
fn unpacked(root: &Path) -> BTreeMap<String, String> {
    let mut tree = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            let name = path.strip_prefix(root).expect("inside").to_string_lossy().into_owned();
            let meta = std::fs::symlink_metadata(&path).expect("there");
            let kind = meta.file_type();
            assert!(!kind.is_char_device() && !kind.is_block_device() && !kind.is_fifo() && !kind.is_socket(), "{name}");
            assert_eq!(meta.mode() & 0o6000, 0, "{name} has privileges");
            let (kind, content) = if kind.is_dir() {
                folders.push(path);
                ('d', Vec::new())
            } else if kind.is_symlink() {
                ('l', std::fs::read_link(&path).expect("a target").into_os_string().into_encoded_bytes())
            } else {
                ('f', std::fs::read(&path).expect("read"))
            };
            tree.insert(name, words(kind, meta.mode(), meta.uid().into(), meta.gid().into(), meta.mtime(), &content));
        }
    }
    tree.retain(|path, _| !laid_over(path));
    tree
}

/// The one unpacked image of a data folder.
fn root(folder: &Folder) -> PathBuf {
    let roots: Vec<_> = std::fs::read_dir(folder.path.join("data/images/roots")).expect("roots").flatten().collect();
    assert_eq!(roots.len(), 1);
    roots[0].path().join("rootfs")
}

/// A tar archive of these files.
fn archive(files: &[(&str, &[u8], u32)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        header.set_mtime(1_500_000_000);
        builder.append_data(&mut header, path, *content).expect("memory");
    }
    builder.into_inner().expect("memory")
}

/// An image with everything a layer can do, made by the engine.
fn build(name: &str) {
    let busybox = std::fs::read("/bin/busybox").or_else(|_| std::fs::read("/usr/bin/busybox")).expect("busybox is needed: apt-get install busybox-static");
    let script = "set -e; mkdir -p /a/b /gone/deep /replaced /sticky; echo 1 > /a/one; ln /a/one /a/b/two; ln -s ../a/one /a/link; ln -s /nowhere /a/dangling; \
         echo x > /gone/deep/file; echo x > /replaced/file; echo x > /file; chmod 1777 /sticky; chmod 4755 /file; chown 12:34 /a/one; chmod 0500 /a/b; mkfifo /a/fifo";
    let second = "set -e; rm -r /gone; rm -r /replaced; echo now-a-file > /replaced; rm /file; mkdir /file; echo y > /file/in; rm /a/link; mkdir /gone; echo new > /gone/new; \
         mkdir -p /usr/lib; ln -s usr/lib /lib; echo so > /lib/so; mv /a/one /a/renamed";
    let run = |script: &str| format!("RUN [\"/bin/busybox\", \"sh\", \"-c\", \"{script}\"]\n");
    let dockerfile = format!(
        "FROM scratch\nCOPY busybox /bin/busybox\nCOPY passwd /etc/passwd\nRUN [\"/bin/busybox\", \"--install\", \"/bin\"]\n{}{}ENV A=b\nWORKDIR /a\nUSER 12\nENTRYPOINT [\"/bin/busybox\"]\nCMD [\"true\"]\n",
        run(script),
        run(second)
    );
    let context = archive(&[("Dockerfile", dockerfile.as_bytes(), 0o644), ("busybox", &busybox, 0o755), ("passwd", b"root:x:0:0::/:/bin/sh\n", 0o644)]);
    let built = engine::ask("POST", &format!("/build?t={name}&rm=1&forcerm=1&nocache=1"), &context).expect("the engine builds");
    assert!(built.status == 200 && !built.text().contains("errorDetail"), "{}", built.text());
}

#[test]
fn what_docker_and_skopeo_save_unpacks_to_what_docker_runs() {
    if !engine::answers() {
        return;
    }
    let folder = Folder::new();
    let name = format!("hob-test-oci/{}:1", folder.tag.to_lowercase());
    build(&name);
    let (saved, tree) = save_and_export(&name);
    assert!(tree.len() > 100 && tree.contains_key("a/renamed") && tree.contains_key("file/in") && !tree.contains_key("gone/deep"), "{tree:?}");
    let docker = folder.path.join("docker.tar");
    std::fs::write(&docker, &saved).expect("written");
    run(hob(&folder).args(["image", "load"]).arg(&docker));
    assert_eq!(unpacked(&root(&folder)), tree, "docker save");

    // As an OCI layout, its layers compressed, under another name.
    let oci = folder.path.join("oci.tar");
    let from = format!("docker-archive:{}", docker.display());
    let status =
        Command::new("skopeo").args(["copy", "--quiet", "--insecure-policy", &from]).arg(format!("oci-archive:{}:other/name:2", oci.display())).status();
    assert!(status.expect("skopeo is needed: apt-get install skopeo").success());
    let other = Folder::new();
    let packed = Command::new("gzip").arg("-c").arg(&oci).output().expect("gzip").stdout;
    let gz = folder.path.join("oci.tar.gz");
    std::fs::write(&gz, packed).expect("written");
    let loaded = run(hob(&other).args(["image", "load"]).arg(&gz));
    assert_eq!(String::from_utf8_lossy(&loaded.stdout), "loaded image docker.io/other/name:2\n");
    assert_eq!(unpacked(&root(&other)), tree, "an OCI layout");

    // And with zstd, unnamed.
    let zst = folder.path.join("zstd");
    let status = Command::new("skopeo")
        .args(["copy", "--quiet", "--insecure-policy", "--dest-compress-format", "zstd", "--dest-compress", &from])
        .arg(format!("oci:{}", zst.display()))
        .status();
    assert!(status.expect("skopeo").success());
    let unnamed = Command::new("tar").arg("-c").arg("-C").arg(&zst).arg(".").output().expect("tar").stdout;
    let third = Folder::new();
    let tar = folder.path.join("zstd.tar");
    std::fs::write(&tar, unnamed).expect("written");
    assert_eq!(hob(&third).args(["image", "load"]).arg(&tar).status().expect("runs").code(), Some(1), "it has no name");
    run(hob(&third).args(["image", "load", "--name", "x/y:1"]).arg(&tar));
    assert_eq!(unpacked(&root(&third)), tree, "zstd layers");

    run(hob(&third).args(["image", "remove", "x/y:1"]));
    for left in ["roots", "blobs/sha256", "refs", "tmp"] {
        assert_eq!(std::fs::read_dir(third.path.join("data/images").join(left)).expect("there").count(), 0, "{left}");
    }
    let _ = engine::ask("DELETE", &format!("/images/{name}?force=1"), &[]);
}

fn save_and_export(name: &str) -> (Vec<u8>, BTreeMap<String, String>) {
    let saved = engine::ask("GET", &format!("/images/{name}/get"), &[]).expect("the engine saves");
    assert_eq!(saved.status, 200);
    let container = create(name);
    let export = engine::ask("GET", &format!("/containers/{container}/export"), &[]).expect("the engine exports");
    assert_eq!(export.status, 200);
    let _ = engine::ask("DELETE", &format!("/containers/{container}?force=1"), &[]);
    (saved.body, exported(&export.body))
}

/// A container of `name`, never started.
fn create(name: &str) -> String {
    let body = serde_json::json!({ "Image": name }).to_string();
    let output = Command::new("curl")
        .args(["-sS", "--unix-socket", "/var/run/docker.sock", "-H", "Content-Type: application/json", "-d", &body, "http://engine/containers/create"])
        .output()
        .expect("curl");
    let made: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    made["Id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
}

/// A docker archive with one large layer of many files.
fn large(name: &str) -> Vec<u8> {
    use sha2::Digest;
    let hex = |bytes: &[u8]| sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
    let names: Vec<String> = (0..3000).map(|n| format!("f/{n}")).collect();
    let content = vec![7u8; 10_000];
    let layer = archive(&names.iter().map(|n| (n.as_str(), content.as_slice(), 0o644)).collect::<Vec<_>>());
    let config = serde_json::json!({ "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))] } }).to_string();
    let manifest = serde_json::json!([{ "Config": "c.json", "RepoTags": [name], "Layers": ["l.tar"] }]).to_string();
    archive(&[("c.json", config.as_bytes(), 0o644), ("l.tar", &layer, 0o644), ("manifest.json", manifest.as_bytes(), 0o644)])
}

#[test]
fn a_kill_in_the_middle_of_unpacking_leaves_a_store_that_the_next_open_repairs() {
    let folder = Folder::new();
    let file = folder.path.join("large.tar");
    std::fs::write(&file, large("t/large:1")).expect("written");
    let images = folder.path.join("data/images");
    let tmp = || -> Vec<PathBuf> { std::fs::read_dir(images.join("tmp")).into_iter().flatten().flatten().map(|e| e.path()).collect() };
    let mut child = hob(&folder).args(["image", "load"]).arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    // Some files are there, the end is far.
    wait_until("the first unpacked files", || {
        tmp().iter().any(|p| std::fs::read_dir(p.join("rootfs/f")).is_ok_and(|mut files| files.next().is_some())).then_some(())
    });
    child.kill().expect("killed");
    child.wait().expect("ended");
    let names = std::fs::read_dir(images.join("refs")).expect("refs").count();
    let left = tmp().len();
    assert_eq!((left, names), (1, 0), "killed with one image half unpacked, and no name");
    let listed = run(hob(&folder).args(["image", "list", "--json"]));
    assert_eq!(String::from_utf8_lossy(&listed.stdout).trim(), "[]");
    assert_eq!(tmp().len(), 0, "the half of an image is gone");
    assert_eq!(std::fs::read_dir(images.join("roots")).expect("roots").count(), 0);
    run(hob(&folder).args(["image", "load"]).arg(&file));
    assert_eq!(std::fs::read_dir(root(&folder).join("f")).expect("there").count(), 3000);
    let pruned = run(hob(&folder).args(["image", "prune", "--json"]));
    assert!(String::from_utf8_lossy(&pruned.stdout).contains("\"roots\":0"));
}

#[test]
fn a_repair_leaves_alone_what_another_process_is_making() {
    let folder = Folder::new();
    let bytes = large("t/large:1");
    let mut child = hob(&folder).args(["image", "load", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it starts");
    let mut input = child.stdin.take().expect("piped");
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    input.write_all(first).expect("written");
    let tmp = folder.path.join("data/images/tmp");
    wait_until("a blob being written", || std::fs::read_dir(&tmp).is_ok_and(|mut d| d.next().is_some()).then_some(()));
    // Opens the store, sweeps, and finds it in use.
    run(hob(&folder).args(["image", "list"]));
    assert_eq!(hob(&folder).args(["image", "prune"]).status().expect("runs").code(), Some(1), "somebody adds");
    input.write_all(rest).expect("written");
    drop(input);
    assert!(child.wait().expect("ended").success());
    assert_eq!(std::fs::read_dir(root(&folder).join("f")).expect("there").count(), 3000);
}
