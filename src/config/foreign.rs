//! Settings of the original that hob does not have. They are known by name, so
//! that nobody believes one of them does something (spec http-api §7).

use super::{Raw, SETTINGS};

/// What is done when such a setting is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Said in the log at start; the server runs without it.
    Warned,
    /// The start stops: going on without it would not be what was asked for.
    Refused,
    /// Another program's business: the client's, or a start script's.
    Quiet,
}

/// One of them.
#[derive(Debug)]
pub struct Foreign {
    pub name: &'static str,
    pub verdict: Verdict,
    /// A sentence: why, and what to do instead.
    pub why: &'static str,
}

macro_rules! foreign {
    ($($name:ident $verdict:ident, $why:literal;)*) => {
        /// All of them, in the order docs/CONFIG.md shows them.
        pub const FOREIGN: &[Foreign] = &[$(Foreign { name: stringify!($name), verdict: Verdict::$verdict, why: $why }),*];
    };
}

foreign! {
    FN_GRPC_PORT Warned, "no node takes calls from another one: docs/SCALING.md shows a load balancer in front of complete nodes";
    FN_RUNNER_API_URL Warned, "no node asks another one: docs/SCALING.md shows a load balancer in front of complete nodes";
    FN_RUNNER_ADDRESSES Warned, "no node passes calls to another one: docs/SCALING.md shows a load balancer in front of complete nodes";
    FN_PLACER Warned, "the load balancer places calls: docs/SCALING.md shows consistent hashing in HAProxy and Envoy";
    FN_LOG_DEST Warned, "hob logs to standard error: let the service manager, or a redirection, take it further";
    FN_LOG_PREFIX Warned, "hob logs to standard error: the service manager names its source";
    FN_ZIPKIN_URL Warned, "hob sends no traces";
    FN_JAEGER_URL Warned, "hob sends no traces";
    FN_PROCESS_COLLECTOR_LIST Warned, "the metrics are of hob's own process: a node exporter knows the others";
    FN_RID_HEADER Warned, "requests are told apart by Fn-Call-Id";
    FN_DS_DB_PING_MAX_RETRIES Warned, "the store is a file in the data folder: it opens or it does not";
    FN_HOT_POLL_MSECS Warned, "nothing polls: a container that comes free is handed to the oldest waiting call";
    FN_EXECUTION_HEADROOM Warned, "a call's limits are the function's timeout and HOB_MAX_WAIT_MSECS";
    FN_EXPERIMENTAL_PREFORK_POOL_SIZE Warned, "networks are made ahead anyway: HOB_PARKED_NETWORKS says how many at most";
    FN_EXPERIMENTAL_PREFORK_IMAGE Warned, "what holds a network made ahead is hob's own program";
    FN_EXPERIMENTAL_PREFORK_CMD Warned, "what holds a network made ahead is hob's own program";
    FN_EXPERIMENTAL_PREFORK_USE_ONCE Warned, "a network made ahead is always used once";
    FN_EXPERIMENTAL_PREFORK_NETWORKS Warned, "networks are made ahead on those of FN_DOCKER_NETWORKS";
    DOCKER_TLS_VERIFY Refused, "hob does not speak TLS to the engine: use its Unix socket, or an SSH tunnel to it";
    DOCKER_CERT_PATH Warned, "hob does not speak TLS to the engine: use its Unix socket, or an SSH tunnel to it";
    DOCKER_API_VERSION Warned, "the version is agreed with the engine";
    FN_MQ_URL Warned, "detached calls wait in calls.db of the data folder";
    FN_LOGSTORE_URL Warned, "what is kept of calls is in calls.db of the data folder";
    FN_EJECT_IDLE_MSECS Warned, "idle containers make room when room is needed; the original does not read it either";
    FN_ASYNC_CHEW_POLL_MSECS Warned, "nothing polls: a detached call runs when there is room for it";
    ZIPKIN_URL Warned, "hob sends no traces";
    JAEGER_URL Warned, "hob sends no traces";
    FN_LOCAL_DEBUG Quiet, "`fn start` passes it; the original does not read it either";
    FN_LOCAL_DEBUG_PORT Quiet, "`fn start` passes it; the original does not read it either";
    FN_API_URL Quiet, "the client reads it";
    FN_TOKEN Quiet, "the client reads it";
    FN_REGISTRY Quiet, "the client reads it";
    FN_CONTEXT Quiet, "the client reads it";
    HOB_URL Quiet, "the client reads it";
    HOB_BLESS Quiet, "the project's tests read it";
}

impl Raw {
    /// Keeps what is to be said about a variable that is no setting of ours.
    /// Ours, and what is nobody's, pass in silence.
    pub(super) fn look_at(&mut self, name: &str, value: &str) {
        if let Some(foreign) = FOREIGN.iter().find(|f| f.name == name) {
            // What says "off" asks for nothing.
            if matches!(value, "" | "0" | "false") {
                return;
            }
            let text = format!("{name} is not a setting of hob: {}", foreign.why);
            match foreign.verdict {
                Verdict::Warned => self.notes.push(text),
                Verdict::Refused => self.problems.push(text),
                Verdict::Quiet => {}
            }
            return;
        }
        let bare = name.strip_suffix("_FILE").unwrap_or(name);
        let ours = SETTINGS.iter().any(|s| s.name == name || s.name == bare);
        if !ours && (name.starts_with("FN_") || name.starts_with("HOB_")) {
            self.notes.push(format!("{name} is set but is no setting that hob knows: is it misspelt?"));
        }
    }
}

/// The answer to a role that this program does not have.
pub(super) fn node_type(value: &str) -> String {
    let what = match value {
        "api" | "lb" | "pure-runner" | "runner" => format!("there are no '{value}' nodes"),
        _ => format!("'{value}' is not a role"),
    };
    format!(
        "FN_NODE_TYPE: {what}: every hob is a complete ('full') node, with API, calls and containers; for more machines put a load balancer in front of full nodes, docs/SCALING.md shows how"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(variables: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let mut raw = Raw::default();
        for (name, value) in variables {
            raw.look_at(name, value);
        }
        (raw.notes, raw.problems)
    }

    #[test]
    fn what_would_do_nothing_is_told() {
        let (notes, problems) = said(&[("FN_RUNNER_ADDRESSES", "a:9190"), ("FN_JAEGER_URL", "http://j"), ("FN_TOKEN", "t"), ("FN_LOCAL_DEBUG", "1")]);
        assert_eq!(problems, Vec::<String>::new());
        assert!(notes.len() == 2 && notes[0].contains("docs/SCALING.md") && notes[1].starts_with("FN_JAEGER_URL"), "{notes:?}");
    }

    #[test]
    fn what_is_off_is_not_mentioned() {
        assert_eq!(said(&[("FN_ZIPKIN_URL", ""), ("DOCKER_TLS_VERIFY", "")]), (Vec::new(), Vec::new()));
    }

    #[test]
    fn plain_text_where_encryption_was_asked_for_is_refused() {
        let (_, problems) = said(&[("DOCKER_TLS_VERIFY", "1")]);
        assert!(problems.len() == 1 && problems[0].contains("TLS"), "{problems:?}");
    }

    #[test]
    fn a_slip_of_the_pen_is_told() {
        let (notes, _) = said(&[("HOB_MAX_WIAT_MSECS", "5"), ("FN_PORT", "1"), ("HOB_API_TOKEN_FILE", "/x"), ("PATH", "/bin"), ("DOCKER_HOST", "x")]);
        assert!(notes.len() == 1 && notes[0].contains("HOB_MAX_WIAT_MSECS"), "{notes:?}");
    }

    #[test]
    fn no_name_is_in_both_tables() {
        for foreign in FOREIGN {
            assert!(SETTINGS.iter().all(|s| s.name != foreign.name), "{} is a setting of hob now: take it out of the table here", foreign.name);
        }
    }

    #[test]
    fn roles() {
        for role in ["api", "lb", "pure-runner", "runner", "both"] {
            let mut raw = Raw::default();
            raw.set("FN_NODE_TYPE", role);
            let error = raw.parse().expect_err("refused");
            assert!(error.problems.len() == 1 && error.to_string().contains("docs/SCALING.md"), "{error}");
        }
    }
}
