//! The image of a parked container: one program that only waits. It is made
//! here, byte by byte, and loaded into the engine: nothing is pulled.

use sha2::{Digest, Sha256};

/// A kind of machine the program exists for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Machine {
    /// The engine's word for it, in images.
    pub(super) name: &'static str,
    /// ELF's number for it.
    elf: u16,
    code: &'static [u8],
}

/// ```text
/// b8 22 00 00 00   again: mov  eax, 34     ; pause(2)
/// 0f 05                   syscall
/// eb f7                   jmp  again
/// ```
const X86_64: Machine = Machine { name: "amd64", elf: 62, code: &[0xb8, 0x22, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7] };

/// There is no pause(2): ppoll(2) of nothing, for ever.
///
/// ```text
/// d2800000         again: mov  x0, #0
/// d2800001                mov  x1, #0
/// d2800002                mov  x2, #0
/// d2800003                mov  x3, #0
/// d2800928                mov  x8, #73
/// d4000001                svc  #0
/// 17fffffa                b    again
/// ```
const AARCH64: Machine = Machine {
    name: "arm64",
    elf: 183,
    code: &[
        0x00, 0x00, 0x80, 0xd2, 0x01, 0x00, 0x80, 0xd2, 0x02, 0x00, 0x80, 0xd2, 0x03, 0x00, 0x80, 0xd2, 0x28, 0x09, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4, 0xfa,
        0xff, 0xff, 0x17,
    ],
};

/// Head of the file and its one program header.
const HEADERS: u64 = 64 + 56;
/// Where the file is mapped.
const BASE: u64 = 0x40_0000;

impl Machine {
    /// By the engine's name of its host's architecture (`GET /info`).
    pub(super) fn named(architecture: &str) -> Option<Machine> {
        match architecture {
            "x86_64" | "amd64" => Some(X86_64),
            "aarch64" | "arm64" => Some(AARCH64),
            _ => None,
        }
    }

    /// The image's name; another program gets another one.
    pub(super) fn image(self) -> String {
        format!("hob/parked:1-{}", self.name)
    }

    /// The program: an ELF file of one segment, readable and executable.
    fn program(self) -> Vec<u8> {
        let size = HEADERS + self.code.len() as u64;
        let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut put = |bytes: &[u8]| file.extend_from_slice(bytes);
        put(&2u16.to_le_bytes()); // executable
        put(&self.elf.to_le_bytes());
        put(&1u32.to_le_bytes());
        put(&(BASE + HEADERS).to_le_bytes()); // entry
        put(&64u64.to_le_bytes()); // program headers begin
        put(&0u64.to_le_bytes()); // no sections
        put(&0u32.to_le_bytes());
        for half in [64u16, 56, 1, 0, 0, 0] {
            put(&half.to_le_bytes());
        }
        put(&1u32.to_le_bytes()); // load
        put(&5u32.to_le_bytes()); // read, execute
        for word in [0, BASE, BASE, size, size, 0x1_0000] {
            put(&word.to_le_bytes());
        }
        put(self.code);
        file
    }

    /// The image as `docker load` takes it.
    ///
    /// # Errors
    /// Writing into memory does not fail; the archive's writer could refuse.
    pub(super) fn archive(self) -> std::io::Result<Vec<u8>> {
        let layer = tar_of(&[("pause", &self.program())])?;
        let digest: String = Sha256::digest(&layer).iter().map(|b| format!("{b:02x}")).collect();
        let config = serde_json::json!({
            "architecture": self.name, "os": "linux",
            "config": {"Entrypoint": ["/pause"], "Env": ["PATH=/"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
            "history": [{"created": "2026-01-01T00:00:00Z", "comment": "waits, so that a network namespace stays"}],
        });
        let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [self.image()], "Layers": ["layer.tar"]}]);
        tar_of(&[("layer.tar", &layer), ("config.json", config.to_string().as_bytes()), ("manifest.json", manifest.to_string().as_bytes())])
    }
}

fn tar_of(files: &[(&str, &[u8])]) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, path, *bytes)?;
    }
    tar.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_small_and_whole() {
        for machine in [X86_64, AARCH64] {
            let program = machine.program();
            assert_eq!(program.len() as u64, HEADERS + machine.code.len() as u64);
            assert!(program.ends_with(machine.code));
            assert!(program.len() < 200);
            assert_eq!(Machine::named(machine.name), Some(machine));
        }
        assert_eq!(Machine::named("riscv64"), None);
    }

    /// Here it runs, and only waits: a kernel's word that the file is right.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_program_waits() {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let folder = crate::docker::testing::Folder::new();
        let path = folder.path.join("pause");
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(&path).expect("made");
        file.write_all(&X86_64.program()).expect("written");
        drop(file);
        // A thread that forks at this moment holds the file open for writing.
        let mut child = crate::docker::testing::wait_until("the kernel to take it", || std::process::Command::new(&path).spawn().ok());
        let stat = format!("/proc/{}/syscall", child.id());
        crate::docker::testing::wait_until("pause(2)", || std::fs::read_to_string(&stat).ok().filter(|s| s.starts_with("34 ")));
        assert!(child.try_wait().expect("status").is_none());
        child.kill().expect("killed");
        child.wait().expect("ended");
    }
}
