//! The servers under test: hob as users run it, and nginx beside it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::http::{Address, Connection, request};
use super::{Failure, Scratch, engine, proc};

/// Reserved by each container of a bench.
pub(crate) const FUNCTION_MIB: u64 = 64;

#[derive(Debug)]
pub(crate) struct Hob {
    child: Child,
    pub(crate) address: SocketAddr,
    app: String,
    data: Arc<Scratch>,
}

impl Hob {
    /// Starts a server on a free port, with one app.
    pub(crate) fn start(name: &str, settings: &[(&str, String)]) -> Result<Hob, Failure> {
        let mut hob = Hob::start_on(Arc::new(Scratch::new(name)?), settings)?;
        hob.app = hob.create("/v2/apps", &json!({"name": "bench"}))?;
        Ok(hob)
    }

    /// Ends the server and starts another on its data; how long the start took,
    /// until it listens.
    pub(crate) fn restarted(self, settings: &[(&str, String)]) -> Result<(Hob, Duration), Failure> {
        let (data, app) = (self.data.clone(), self.app.clone());
        self.terminate()?;
        let begun = Instant::now();
        let mut hob = Hob::start_on(data, settings)?;
        hob.app = app;
        Ok((hob, begun.elapsed()))
    }

    fn start_on(data: Arc<Scratch>, settings: &[(&str, String)]) -> Result<Hob, Failure> {
        let log = data.path().join("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_hob"));
        command.arg("serve").env("HOB_DATA", data.path().join("d")).env("FN_PORT", "0").env("FN_LOG_LEVEL", "warn");
        command.envs(settings.iter().map(|(k, v)| (k, v)));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&log)?).spawn()?;
        let mut hob = Hob { child, address: ([127, 0, 0, 1], 0).into(), app: String::new(), data };
        let until = Instant::now() + Duration::from_secs(20);
        hob.address = loop {
            let text = std::fs::read_to_string(&log)?;
            if let Some(address) = text.lines().find_map(|l| l.split_once("serving on http://")?.1.trim().parse().ok()) {
                break address;
            }
            if Instant::now() > until || hob.child.try_wait()?.is_some() {
                return Err(format!("hob does not start: {text}").into());
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        Ok(hob)
    }

    /// The id of the one app.
    pub(crate) fn app(&self) -> &str {
        &self.app
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn create(&self, path: &str, body: &Value) -> Result<String, Failure> {
        let mut connection = Connection::new(Address::Tcp(self.address));
        let answer = connection.ask(&request("POST", path, &[("Content-Type", "application/json")], body.to_string().as_bytes()))?;
        let text = String::from_utf8_lossy(answer.body);
        let value: Value = serde_json::from_str(&text)?;
        value["id"].as_str().map(str::to_owned).ok_or_else(|| format!("{path}: {} {text}", answer.status).into())
    }

    /// A function of the echo image; the result is what to ask.
    pub(crate) fn function(&self, name: &str) -> Result<String, Failure> {
        self.function_of(name, FUNCTION_MIB)
    }

    /// The same with a reservation of its own.
    pub(crate) fn function_of(&self, name: &str, mib: u64) -> Result<String, Failure> {
        let body = json!({"name": name, "app_id": self.app, "image": engine::IMAGE, "memory": mib, "timeout": 60, "idle_timeout": 3600});
        Ok(format!("/invoke/{}", self.create("/v2/fns", &body)?))
    }

    /// MiB it has for functions, as it says at its start.
    pub(crate) fn capacity_mib(&self) -> Option<u64> {
        self.log().lines().find_map(|l| l.trim().strip_prefix("capacity")).and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse().ok())
    }

    /// Its data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.data.path().join("d")
    }

    pub(crate) fn connection(&self) -> Connection {
        Connection::new(Address::Tcp(self.address))
    }

    /// Waits until so many networks are parked.
    pub(crate) fn await_parked(&self, count: usize) -> Result<(), Failure> {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            if self.parked()? == count {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("no {count} parked networks: {}", self.log()).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until no more networks are being parked; how many are.
    pub(crate) fn await_parked_steady(&self) -> Result<usize, Failure> {
        let (mut count, mut since) = (self.parked()?, Instant::now());
        let until = since + Duration::from_secs(60);
        while count == 0 || since.elapsed() < Duration::from_secs(2) {
            if Instant::now() > until {
                return Err(format!("networks are parked without an end: {}", self.log()).into());
            }
            std::thread::sleep(Duration::from_millis(50));
            let now = self.parked()?;
            if now != count {
                (count, since) = (now, Instant::now());
            }
        }
        Ok(count)
    }

    fn parked(&self) -> Result<usize, Failure> {
        let mut connection = self.connection();
        let text = String::from_utf8_lossy(connection.ask(&request("GET", "/metrics", &[], b""))?.body).into_owned();
        let found = text.lines().find_map(|l| l.strip_prefix("hob_parked_networks ")?.parse().ok());
        found.ok_or_else(|| "no count of parked networks".into())
    }

    /// The sockets of the live containers.
    pub(crate) fn sockets(&self) -> Vec<PathBuf> {
        let Ok(folders) = std::fs::read_dir(self.data.path().join("d/iofs")) else { return Vec::new() };
        let mut sockets: Vec<PathBuf> = folders.flatten().map(|f| f.path().join("lsnr.sock")).filter(|s| s.exists()).collect();
        sockets.sort();
        sockets
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.data.path().join("log")).unwrap_or_default()
    }

    /// SIGTERM; how long it took and how it ended.
    pub(crate) fn terminate(mut self) -> Result<(Duration, Option<i32>), Failure> {
        let start = Instant::now();
        proc::signal(self.pid(), "TERM");
        while start.elapsed() < Duration::from_secs(120) {
            if let Some(status) = self.child.try_wait()? {
                return Ok((start.elapsed(), status.code()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err("hob does not end within 120 s of SIGTERM".into())
    }
}

impl Drop for Hob {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            proc::signal(self.pid(), "TERM");
            let until = Instant::now() + Duration::from_secs(30);
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// nginx, proxying to function sockets with kept-alive connections.
#[derive(Debug)]
pub(crate) struct Nginx {
    child: Child,
    /// To the first socket only, and to all of them.
    pub(crate) one: SocketAddr,
    pub(crate) all: SocketAddr,
    _folder: Scratch,
}

impl Nginx {
    /// `None` where nginx is not installed.
    pub(crate) fn start(sockets: &[PathBuf], unbuffered: bool) -> Result<Option<Nginx>, Failure> {
        let Some(program) = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|p| Path::new(p).exists()) else { return Ok(None) };
        let folder = Scratch::new(if unbuffered { "nginx-u" } else { "nginx" })?;
        let (one, all) = (free_address()?, free_address()?);
        let config = folder.path().join("nginx.conf");
        std::fs::write(&config, configuration(folder.path(), sockets, one, all, unbuffered))?;
        let child = Command::new(program)
            .arg("-c")
            .arg(&config)
            .arg("-p")
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("stderr"))?)
            .spawn()?;
        let mut nginx = Nginx { child, one, all, _folder: folder };
        let until = Instant::now() + Duration::from_secs(5);
        while nginx.workers().len() < 2 || std::net::TcpStream::connect(all).is_err() {
            if Instant::now() > until || nginx.child.try_wait()?.is_some() {
                return Err("nginx does not start".into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Some(nginx))
    }

    pub(crate) fn workers(&self) -> Vec<u32> {
        proc::children(self.child.id())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        proc::signal(self.child.id(), "TERM");
        let _ = self.child.wait();
    }
}

fn free_address() -> Result<SocketAddr, Failure> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn configuration(folder: &Path, sockets: &[PathBuf], one: SocketAddr, all: SocketAddr, unbuffered: bool) -> String {
    let folder = folder.display();
    let server = |socket: &PathBuf| format!("server unix:{} max_fails=0;", socket.display());
    let list: String = sockets.iter().map(server).collect();
    let first: String = sockets.first().map(server).unwrap_or_default();
    let buffering = if unbuffered { "proxy_request_buffering off; proxy_buffering off;" } else { "" };
    format!(
        "user root; worker_processes 2; daemon off; pid {folder}/pid; error_log {folder}/error.log crit;
events {{ worker_connections 1024; }}
http {{
  access_log off; tcp_nodelay on; keepalive_requests 1000000000; keepalive_timeout 300s;
  client_max_body_size 64m; client_body_buffer_size 2m; {buffering}
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream one {{ {first} keepalive 16; keepalive_requests 1000000000; }}
  upstream all {{ {list} keepalive 32; keepalive_requests 1000000000; }}
  proxy_http_version 1.1; proxy_set_header Connection \"\";
  server {{ listen {one}; location / {{ proxy_pass http://one; }} }}
  server {{ listen {all}; location / {{ proxy_pass http://all; }} }}
}}
"
    )
}
