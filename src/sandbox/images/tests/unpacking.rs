//! Layers become the tree they describe.

use super::*;

#[test]
fn a_saved_image_is_loaded_and_unpacked_once() {
    let place = Place::new();
    let images = place.open();
    let more = serde_json::json!({
        "Entrypoint": ["/bin/x"], "Cmd": ["a"], "Env": ["K=V"], "WorkingDir": "/w", "User": "1000", "Volumes": { "/v": {} }
    });
    let layer = tar(&[folder("bin"), file("bin/x", "program"), symlink("bin/y", "x"), hard_link("z", "bin/x")]);
    let archive = docker_archive(&[(gzip(&layer), layer)], &more);
    let loaded = place.load(&images, &gzip(&archive)).expect("loads");
    assert_eq!(loaded[0].name, "docker.io/t/x:1");
    let root = place.rootfs(&images);
    assert_eq!(listing(&root.path), ["bin/ 755", "bin/x 644 2 program", "bin/y -> x", "z 644 2 program"]);
    let config = &root.config;
    assert_eq!((config.entrypoint.as_slice(), config.cmd.as_slice()), (&["/bin/x".to_owned()][..], &["a".to_owned()][..]));
    assert_eq!((config.env.as_slice(), config.working_dir.as_str(), config.user.as_str()), (&["K=V".to_owned()][..], "/w", "1000"));
    assert_eq!(config.volumes, ["/v"]);
    assert_eq!(root.id, loaded[0].id);
    assert_eq!(place.unfinished(), 0);
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_of_their_own_layer() {
    let place = Place::new();
    let images = place.open();
    let below = vec![file("a/old", "1"), file("a/deep/old", "2"), file("b/old", "3"), file("b/kept", "4"), file("c", "5"), folder("d"), file("d/e/f", "6")];
    let above = vec![
        file("a/new", "7"),
        file("a/deep/new", "8"),
        // After its own layer's files, as some tools write it.
        file("a/.wh..wh..opq", ""),
        file("b/.wh.old", ""),
        file("b/.wh.kept", ""),
        file("b/kept", "9"),
        file(".wh.c", ""),
        file(".wh.missing", ""),
        file("nowhere/.wh.missing", ""),
        file("d/.wh.e", ""),
        file(".wh..wh.plnk/1.2", "bookkeeping"),
    ];
    place.load(&images, &image_of(&[below, above])).expect("loads");
    let root = place.rootfs(&images);
    let expected = ["a/ 755", "a/deep/ 755", "a/deep/new 644 1 8", "a/new 644 1 7", "b/ 755", "b/kept 644 1 9", "d/ 755"];
    assert_eq!(listing(&root.path), expected);
}

#[test]
fn what_comes_later_replaces_what_was_there() {
    let place = Place::new();
    let images = place.open();
    let below = vec![
        file("file-to-folder", "1"),
        file("folder-to-file/x/y", "2"),
        symlink("link-to-file", "folder-to-file"),
        symlink("lib", "usr/lib"),
        folder("usr/lib"),
    ];
    let above = vec![
        folder("file-to-folder"),
        file("file-to-folder/in", "3"),
        file("folder-to-file", "4"),
        file("link-to-file", "5"),
        // Through a link of the image, as a merged /usr has them.
        file("lib/so", "6"),
    ];
    place.load(&images, &image_of(&[below, above])).expect("loads");
    let expected = [
        "file-to-folder/ 755",
        "file-to-folder/in 644 1 3",
        "folder-to-file 644 1 4",
        "lib -> usr/lib",
        "link-to-file 644 1 5",
        "usr/ 755",
        "usr/lib/ 755",
        "usr/lib/so 644 1 6",
    ];
    assert_eq!(listing(&place.rootfs(&images).path), expected);
}

#[test]
fn files_on_an_image_make_another_and_the_same_files_the_same() {
    let place = Place::new();
    let images = place.open();
    let stack = |layer: &[u8], base: &str| {
        let change = Change { entrypoint: vec!["/f/run".to_owned()], cmd: Vec::new(), working_dir: "/f".to_owned() };
        images.stack(base, &mut &layer[..], "t/over:1", &change, soon(), &place.stop)
    };
    let layer = tar(&[folder("f"), file("f/run", "above")]);
    assert!(matches!(stack(&layer, "t/x:1"), Err(ImageError::NotFound { .. })), "nothing to put it on");
    let below = tar(&[file("base", "below"), file("f/run", "hidden")]);
    place.load(&images, &docker_archive(&[(gzip(&below), below)], &serde_json::json!({"Env": ["K=V"], "User": "7", "Cmd": ["c"]}))).expect("loads");
    let made = stack(&layer, "t/x:1").expect("made");
    assert_eq!(made.name, "docker.io/t/over:1");
    let root = images.ensure("t/over:1", Pull::Never, soon(), &place.stop).expect("there");
    assert_eq!(listing(&root.path), ["base 644 1 below", "f/ 755", "f/run 644 1 above"]);
    let config = &root.config;
    assert_eq!((config.entrypoint.as_slice(), config.cmd.len(), config.working_dir.as_str()), (&["/f/run".to_owned()][..], 0, "/f"));
    assert_eq!((config.env.as_slice(), config.user.as_str()), (&["K=V".to_owned()][..], "7"), "the rest is the base's");
    assert_eq!(stack(&layer, "t/x:1").expect("made"), made);
    assert_eq!(listing(&place.rootfs(&images).path), ["base 644 1 below", "f/ 755", "f/run 644 1 hidden"], "the one below is as it was");

    // What no archive may hold, none of these may either; the name stays with the good one.
    let hostile = tar(&[symlink("out", "/"), file("out/etc/passwd", "x"), file("../escaped", "x")]);
    if stack(&hostile, "t/x:1").is_ok() {
        let root = images.ensure("t/over:1", Pull::Never, soon(), &place.stop).expect("there");
        assert!(!root.path.join("../escaped").exists());
    } else {
        assert_eq!(images.find("t/over:1").expect("read").expect("there").config, made.id);
    }
    assert_eq!(place.unfinished(), 0);
}
