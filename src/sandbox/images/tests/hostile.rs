//! Archives that try to get out, to stay, or to eat the machine.

use super::*;

/// What must become of one.
enum Must {
    /// The load fails with these words in its message.
    Refuse(&'static str),
    /// It loads, and this is all there is.
    Hold(&'static [&'static str]),
}

struct Case {
    name: &'static str,
    layers: Vec<Vec<Item>>,
    must: Must,
}

fn case(name: &'static str, items: Vec<Item>, must: Must) -> Case {
    Case { name, layers: vec![items], must }
}

fn deep(parts: usize) -> String {
    "d/".repeat(parts) + "f"
}

/// `outside` is a folder that must stay as it is.
fn cases(outside: &str) -> Vec<Case> {
    use Must::{Hold, Refuse};
    let climb = format!("../../../../../../../../../../../../{outside}");
    vec![
        case("dots in a name", vec![file("../../../canary", "x")], Refuse("climbs out")),
        case("dots in the middle", vec![folder("a"), file("a/../../../canary", "x")], Refuse("climbs out")),
        case("dots to the victim", vec![file(&format!("{climb}/canary"), "x")], Refuse("climbs out")),
        case("an absolute name", vec![file("/canary", "x")], Hold(&["canary 644 1 x"])),
        case("many slashes", vec![file("////a////canary", "x")], Hold(&["a/ 755", "a/canary 644 1 x"])),
        case("a file through an absolute link", vec![symlink("l", "/etc"), file("l/canary", "x")], Hold(&["etc/ 755", "etc/canary 644 1 x", "l -> /etc"])),
        case(
            "a file through a climbing link",
            vec![symlink("l", "../../../../../../../etc"), file("l/canary", "x")],
            Hold(&["etc/ 755", "etc/canary 644 1 x", "l -> ../../../../../../../etc"]),
        ),
        case(
            "a file through links to links",
            vec![symlink("a", "b"), symlink("b", "/c/.."), folder("c"), file("a/canary", "x")],
            Hold(&["a -> b", "b -> /c/..", "c/ 755", "canary 644 1 x"]),
        ),
        case("a file over a link is no write through it", vec![symlink("l", "/etc/passwd"), file("l", "x")], Hold(&["l 644 1 x"])),
        case("a folder over a link", vec![symlink("l", "/etc"), folder("l"), file("l/canary", "x")], Hold(&["l/ 755", "l/canary 644 1 x"])),
        case("links that go round", vec![symlink("a", "b"), symlink("b", "a"), file("a/x", "x")], Refuse("too many links")),
        case("a link to its own folder, endlessly", vec![symlink("a", "a/a/a"), file("a/x", "x")], Refuse("too many links")),
        case("a hard link outside", vec![hard_link("h", &format!("{climb}/canary"))], Refuse("climbs out")),
        case("a hard link to an absolute name", vec![hard_link("h", "/etc/passwd")], Refuse("is not there")),
        case("a hard link through a link", vec![symlink("l", "/etc"), hard_link("h", "l/passwd")], Refuse("is not there")),
        case(
            "a hard link to a link, then a write",
            vec![symlink("l", "/etc/passwd"), hard_link("h", "l"), file("h", "x")],
            Hold(&["h 644 1 x", "l -> /etc/passwd"]),
        ),
        case("a hard link to a folder", vec![folder("d"), hard_link("h", "d")], Refuse("what is no file")),
        case("a hard link to the root", vec![hard_link("h", "/")], Refuse("is not there")),
        case("devices", vec![item(b'3', "dev/null"), item(b'4', "dev/sda"), file("x", "x")], Hold(&["x 644 1 x"])),
        case("a fifo", vec![item(b'6', "pipe"), file("x", "x")], Hold(&["x 644 1 x"])),
        case("setuid and setgid", vec![Item { mode: 0o6755, ..file("su", "x") }, Item { mode: 0o7777, ..folder("t") }], Hold(&["su 755 1 x", "t/ 1777"])),
        case("a whiteout that climbs", vec![file("a/.wh...", "")], Refuse("hides no name")),
        case("a whiteout of its folder", vec![file("a/.wh..", "")], Refuse("hides no name")),
        case("a whiteout of nothing", vec![file("a/.wh.", "")], Refuse("hides no name")),
        case("a whiteout through a link", vec![symlink("l", "/etc"), file("l/.wh.passwd", ""), file("l/.wh..wh..opq", "")], Hold(&["l -> /etc"])),
        case("the root replaced", vec![symlink(".", "/etc")], Refuse("replace the root")),
        case("the root replaced by a file", vec![file("/", "x")], Refuse("replace the root")),
        case("too deep", vec![file(&deep(200), "x")], Refuse("too deep")),
        case("too deep through links", vec![file(&deep(60), "x"), symlink("l", &"d/".repeat(60)), file(&format!("l/{}", deep(60)), "x")], Refuse("too deep")),
        case("a name too long", vec![file(&"n".repeat(300), "x")], Refuse("too long")),
        case("a path too long", vec![file(&"n/".repeat(2500), "x")], Refuse("larger than allowed")),
        case("a link too long", vec![symlink("l", &"n/".repeat(2500))], Refuse("larger than allowed")),
        case("a link to nothing", vec![symlink("l", "")], Refuse("link to nothing")),
        case("an owner nobody can be", vec![Item { owner: u64::from(u32::MAX), ..file("x", "x") }], Refuse("an owner")),
        case("a zero byte in a name", vec![Item { pax: vec![("path".to_owned(), b"a\0b".to_vec())], ..file("x", "x") }], Refuse("zero byte")),
        case("a header that asks for memory", vec![Item { size: Some(1 << 40), ..item(b'L', "././@LongLink") }], Refuse("larger than allowed")),
        case("an extended header that asks for memory", vec![Item { size: Some(1 << 40), ..item(b'x', "pax") }], Refuse("larger than allowed")),
        case("an extended header that lies", vec![Item { data: b"99999 path=x\n".to_vec(), ..item(b'x', "pax") }], Refuse("wrong length")),
        case("headers without end", vec![Item { data: b"12 path=abc\n".to_vec(), ..item(b'x', "pax") }; 40], Refuse("too many headers")),
        case("a size beyond the end", vec![Item { size: Some(1 << 30), ..file("x", "x") }], Refuse("middle of a file")),
        case("a size beyond all bounds", vec![Item { size: Some(u64::MAX >> 1), ..file("x", "x") }], Refuse("")),
        case("a sparse file", vec![item(b'S', "x")], Refuse("sparse")),
        case("a sparse file, newer", vec![Item { pax: vec![("GNU.sparse.major".to_owned(), b"1".to_vec())], ..file("x", "x") }], Refuse("sparse")),
        case("an entry of no kind", vec![item(b'Q', "x")], Refuse("entry type")),
        case(
            "privileges in attributes",
            vec![Item {
                pax: vec![("SCHILY.xattr.security.capability".to_owned(), vec![1, 0, 0, 2, 0, 4, 0, 0]), ("SCHILY.xattr.trusted.x".to_owned(), b"1".to_vec())],
                ..file("x", "x")
            }],
            Hold(&["x 644 1 x"]),
        ),
        case(
            "too many attributes",
            vec![Item { pax: (0..100).map(|i| (format!("SCHILY.xattr.user.{i}"), b"1".to_vec())).collect(), ..file("x", "x") }],
            Refuse("larger than allowed"),
        ),
        Case {
            name: "a later layer goes through an earlier one's link",
            layers: vec![vec![symlink("e", "/../../../../../../etc")], vec![file("e/canary", "x")]],
            must: Hold(&["e -> /../../../../../../etc", "etc/ 755", "etc/canary 644 1 x"]),
        },
        Case { name: "a layer hides the root", layers: vec![vec![file("a", "x")], vec![file(".wh..wh..opq", ""), file("b", "y")]], must: Hold(&["b 644 1 y"]) },
    ]
}

#[test]
fn every_hostile_archive_is_refused_or_contained() {
    let outside = Place::new();
    std::fs::write(outside.folder.join("canary"), "untouched").expect("written");
    let path = outside.folder.display().to_string();
    let before = (listing(&outside.folder), std::fs::read("/etc/passwd").expect("readable"));
    let all = cases(path.trim_start_matches('/'));
    assert!(all.len() >= 20);
    let mut wrong = Vec::new();
    for case in all {
        let place = Place::new();
        let images = place.open();
        let around = || {
            let mut list = listing(&place.folder);
            list.retain(|l| !l.starts_with("images/"));
            list
        };
        let result = place.load(&images, &image_of(&case.layers));
        match (&result, &case.must) {
            (Err(e), Must::Refuse(words)) if e.to_string().contains(words) => {
                assert!(images.list().expect("listed").is_empty(), "{}: a refused image has no name", case.name);
                let left: Vec<_> =
                    ["blobs/sha256", "roots", "tmp"].iter().map(|p| std::fs::read_dir(place.folder.join("images").join(p)).expect("there").count()).collect();
                if left != [0, 0, 0] {
                    wrong.push(format!("{}: left behind {left:?}", case.name));
                }
            }
            (Ok(_), Must::Hold(expected)) => {
                let found = listing(&place.rootfs(&images).path);
                if found != *expected {
                    wrong.push(format!("{}: {found:?}", case.name));
                }
            }
            (other, _) => wrong.push(format!("{}: {other:?}", case.name)),
        }
        assert_eq!(around(), [""; 0], "{}: beside the store", case.name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!((listing(&outside.folder), std::fs::read("/etc/passwd").expect("readable")), before);
    assert!(!Path::new("/canary").exists() && !Path::new("/etc/canary").exists());
}

#[test]
fn bombs_of_every_kind_end_at_their_limit() {
    let small = Limits { bytes: 8 << 20, entries: 100, ratio: 20, ratio_from: 1 << 20, layers: 5, ..Limits::default() };
    let zeros = |n: usize| tar(&[Item { data: vec![0; n], ..file("zeros", "") }]);
    let many: Vec<Item> = (0..200).map(|i| file(&format!("f{i}"), "")).collect();
    let refused: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a small layer of many zeros", docker_archive(&[(gzip(&zeros(4 << 20)), zeros(4 << 20))], &serde_json::json!({})), "for each byte"),
        ("too many bytes", docker_archive(&[(zeros(9 << 20), zeros(9 << 20))], &serde_json::json!({})), "in bytes"),
        ("too many files", image_of(&[many]), "number of files"),
        ("too many layers", image_of(&vec![vec![file("x", "x")]; 6]), "number of layers"),
        ("a layer that is not what its digest says", docker_archive(&[(tar(&[file("x", "x")]), tar(&[file("x", "y")]))], &serde_json::json!({})), "digest"),
        ("a broken gzip stream", docker_archive(&[(gzip(&zeros(1000))[..60].to_vec(), zeros(1000))], &serde_json::json!({})), "gzip"),
        ("a broken zstd stream", docker_archive(&[(b"\x28\xb5\x2f\xfdnonsense".to_vec(), zeros(10))], &serde_json::json!({})), "zstd"),
        ("xz", docker_archive(&[(b"\xfd7zXZ\0nonsense".to_vec(), zeros(10))], &serde_json::json!({})), "not supported"),
        ("no archive", b"nonsense".repeat(200), "checksum"),
        ("nothing", Vec::new(), "neither"),
        ("half an archive", image_of(&[vec![file("x", "x")]])[..700].to_vec(), "middle"),
        ("no image in it", tar(&[file("readme", "x")]), "neither"),
        (
            "layers that are not there",
            tar(&[file("c", "{}"), file("manifest.json", r#"[{"Config":"c","RepoTags":["t/x:1"],"Layers":["../../etc/passwd"]}]"#)]),
            "is not in it",
        ),
        ("links to links", tar(&[symlink("c", "c"), file("manifest.json", r#"[{"Config":"c","RepoTags":["t/x:1"],"Layers":[]}]"#)]), "is not in it"),
        ("no name", tar(&[file("c", "{}"), file("manifest.json", r#"[{"Config":"c","Layers":[]}]"#)]), "does not say"),
        ("a name that is a path", tar(&[file("c", "{}"), file("manifest.json", r#"[{"Config":"c","RepoTags":["../../x"],"Layers":[]}]"#)]), "not a valid"),
        ("a blob under a wrong name", tar(&[file("blobs/sha256/00", "x")]), "digest"),
    ];
    for (name, archive, words) in refused {
        let place = Place::new();
        let images = place.open_with(small.clone());
        let error = place.load(&images, &archive).expect_err(name).to_string();
        assert!(error.contains(words), "{name}: {error}");
        assert!(images.list().expect("listed").is_empty() && place.unfinished() == 0, "{name}");
    }
}
