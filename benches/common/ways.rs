//! The ways to the function that take turns in a run: direct, nginx, peers, hob.

use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::Duration;

use super::Failure;
use super::http::{Address, Connection, request};
use super::load::{Load, Outcome, Until, run};
use super::server::{Hob, Nginx};

const CALL_ID: &str = "01HF7YAT3V180G40RZJ0000001";

/// One way to the function.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) name: String,
    /// For one caller, and for more.
    one: Vec<Address>,
    many: Vec<Address>,
    target: String,
    fields: Vec<(&'static str, &'static str)>,
    /// Whose CPU counts.
    pub(crate) pids: Vec<u32>,
}

/// What hob adds for the function, the others' caller sends himself.
fn all_fields() -> Vec<(&'static str, &'static str)> {
    vec![("Content-Type", "text/plain"), ("Fn-Call-Id", CALL_ID), ("Fn-Deadline", "2099-01-01T00:00:00Z")]
}

/// Direct first, hob last; what is measured against is `nginx`, where there is one.
pub(crate) fn ways(hob: &Hob, target: &str, sockets: &[PathBuf], nginx: Option<&Nginx>) -> Result<Vec<Way>, Failure> {
    let direct: Vec<Address> = sockets.iter().cloned().map(Address::Unix).collect();
    let one = direct.first().ok_or("hob started no container")?.clone();
    let mut ways = vec![Way { name: "direct".to_owned(), one: vec![one], many: direct, target: "/call".to_owned(), fields: all_fields(), pids: Vec::new() }];
    if let Some(nginx) = nginx {
        ways.push(Way {
            name: "nginx".to_owned(),
            one: vec![Address::Tcp(nginx.one)],
            many: vec![Address::Tcp(nginx.all)],
            target: "/call".to_owned(),
            fields: all_fields(),
            pids: nginx.workers(),
        });
    }
    ways.extend(peers()?);
    let address = vec![Address::Tcp(hob.address)];
    ways.push(Way {
        name: "hob".to_owned(),
        one: address.clone(),
        many: address,
        target: target.to_owned(),
        fields: vec![("Content-Type", "text/plain")],
        pids: vec![hob.pid()],
    });
    Ok(ways)
}

/// `--peer NAME=URL,PID`, any number of times: another server with a function
/// that gives back what it is sent, `URL` to be asked with POST, and the process
/// whose CPU counts (with its children, not theirs). Each is called once: a bench
/// asks for them first of all, to end on a mistake before it has begun.
pub(crate) fn peers() -> Result<Vec<Way>, Failure> {
    let mut arguments = std::env::args();
    let mut ways: Vec<Way> = Vec::new();
    while let Some(argument) = arguments.next() {
        if argument == "--peer" {
            let text = arguments.next().unwrap_or_default();
            let way = peer(&text).map_err(|why| format!("--peer {text}: {why}; wanted is NAME=http://HOST:PORT/PATH,PID"))?;
            if ["direct", "nginx", "hob"].contains(&way.name.as_str()) || ways.iter().any(|w| w.name == way.name) {
                return Err(format!("--peer {text}: there is another {}", way.name).into());
            }
            way.try_once(1, 64).map_err(|why| format!("--peer {text}: does not give back what it is sent: {why}"))?;
            ways.push(way);
        }
    }
    Ok(ways)
}

fn peer(text: &str) -> Result<Way, String> {
    let (name, rest) = text.split_once('=').ok_or("no = behind a name")?;
    let (url, pid) = rest.rsplit_once(',').ok_or("no process behind a comma")?;
    let (authority, path) = url.strip_prefix("http://").ok_or("not http://")?.split_once('/').ok_or("no path")?;
    let address = authority.to_socket_addrs().map_err(|e| format!("{authority}: {e}"))?.next().ok_or("no address")?;
    let pid: u32 = pid.parse().map_err(|_| format!("{pid:?} is no process id"))?;
    if name.is_empty() || super::proc::parent(pid).is_none() {
        return Err(if name.is_empty() { "no name".to_owned() } else { format!("there is no process {pid}") });
    }
    let pids = std::iter::once(pid).chain(super::proc::children(pid)).collect();
    let address = vec![Address::Tcp(address)];
    Ok(Way { name: name.to_owned(), one: address.clone(), many: address, target: format!("/{path}"), fields: vec![("Content-Type", "text/plain")], pids })
}

impl Way {
    pub(crate) fn addresses(&self, callers: usize) -> Vec<Address> {
        if callers == 1 { self.one.clone() } else { self.many.clone() }
    }

    pub(crate) fn request(&self, size: usize) -> Vec<u8> {
        request("POST", &self.target, &self.fields, &vec![b'x'; size])
    }

    pub(crate) fn load(&self, callers: usize, size: usize, until: Until) -> Load {
        Load { addresses: self.addresses(callers), requests: vec![self.request(size)], callers, until }
    }

    /// One call, which must come back whole.
    pub(crate) fn try_once(&self, callers: usize, size: usize) -> Result<(), Failure> {
        let mut connection = Connection::new(self.addresses(callers)[0].clone());
        let answer = connection.ask(&self.request(size))?;
        if answer.status == 200 && answer.body.len() == size {
            Ok(())
        } else {
            Err(format!("{}: {} with {} of {size} bytes", self.name, answer.status, answer.body.len()).into())
        }
    }

    /// A number is worth nothing when calls failed. Others than hob may fail one in
    /// a thousand: nginx does where many callers meet few sockets, and it is said.
    pub(crate) fn check(&self, outcome: &Outcome) -> Result<(), Failure> {
        let bad = outcome.samples.len() - outcome.good();
        if bad > 0 {
            eprintln!("{}: answers {}", self.name, outcome.statuses());
        }
        if outcome.good() > 0 && (bad == 0 || self.name != "hob" && bad <= outcome.samples.len() / 1000) {
            Ok(())
        } else {
            Err(format!("{}: answers {}", self.name, outcome.statuses()).into())
        }
    }
}

/// Enough calls at once that hob starts all the containers it has room for.
pub(crate) fn warm_up(hob: &Hob, target: &str) {
    let slow = request("POST", target, &[("X-Sleep-Ms", "100")], b"warm");
    run(&Load { addresses: vec![Address::Tcp(hob.address)], requests: vec![slow], callers: 32, until: Until::Elapsed(Duration::from_secs(3)) });
}
