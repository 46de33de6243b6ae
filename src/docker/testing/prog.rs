//! The program inside the test image: what it does is named by MODE.
use std::fs;
use std::io::Write;

fn main() {
    let mode = std::env::var("MODE").unwrap_or_default();
    let (verb, n) = mode.split_once('=').unwrap_or((mode.as_str(), "0"));
    match verb {
        "exit" => std::process::exit(n.parse().unwrap_or(99)),
        // Not before it is told to: the engine learns of a kill for want of
        // memory only once it watches the container, which is after its start.
        "eat" => {
            while !fs::exists("/tmp/iofs/go").unwrap_or(false) {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            let mut all: Vec<Vec<u8>> = Vec::new();
            loop {
                all.push(vec![1; 1 << 20]);
            }
        }
        // What it sees of its surroundings, for the test to read.
        "look" => {
            let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
            let root = fs::write("/written", "x").is_ok();
            let tmp = fs::write("/tmp/written", "x").is_ok();
            let net = fs::read_dir("/sys/class/net").map(|d| d.count()).unwrap_or(0);
            // A process's own loopback works, whatever else there is.
            let lo = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| std::net::TcpStream::connect(l.local_addr()?)).is_ok();
            let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
            let one = fs::read_to_string("/proc/1/comm").unwrap_or_default();
            let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
            let text = format!("root={root}\ntmp={tmp}\nnet={net}\nlo={lo}\nname={name}one={one}\n{status}\n{limits}\n{mounts}");
            let mut file = fs::File::create("/tmp/iofs/.look").expect("folder");
            file.write_all(text.as_bytes()).expect("write");
            fs::rename("/tmp/iofs/.look", "/tmp/iofs/look").expect("rename");
        }
        // A number that grows while it may run.
        "tick" => {
            for n in 0u64.. {
                fs::write("/tmp/iofs/.tick", n.to_string()).expect("write");
                fs::rename("/tmp/iofs/.tick", "/tmp/iofs/tick").expect("rename");
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        _ => {}
    }
    loop {
        std::thread::park();
    }
}
