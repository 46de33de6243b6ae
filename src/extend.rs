//! Extension points for programs that have hob inside: who listens to calls,
//! who changes them, what makes containers (docs/EXTENDING.md).
//!
//! Owns: the traits and what was registered. Called by: `server` (registered
//! before the start), `agent` (asked on each call). Blocks on: what a listener
//! does, on the thread that carries the call: nothing slow belongs there. Does
//! not: exist on the hot path when nothing is registered, but for one branch.

use std::fmt;
use std::sync::Arc;

use crate::call::{Call, CallError, Objection};
use crate::driver::Driver;

/// Hears of every call that has a container.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use hob::call::{Call, CallError, Objection};
/// use hob::extend::CallListener;
///
/// /// Counts answers by what they became, and refuses calls of one app.
/// #[derive(Default)]
/// struct Tally { good: AtomicU64, bad: AtomicU64 }
///
/// impl CallListener for Tally {
///     fn before_call(&self, call: &Call) -> Result<(), Objection> {
///         match call.spec.app_name.as_str() {
///             "suspended" => Err(Objection { status: 403, message: "this app is suspended".into() }),
///             _ => Ok(()),
///         }
///     }
///
///     fn after_call(&self, _call: &Call, result: &Result<(), CallError>) {
///         let counter = if result.is_ok() { &self.good } else { &self.bad };
///         counter.fetch_add(1, Ordering::Relaxed);
///     }
/// }
///
/// let extensions = hob::extend::Extensions::default().listener(std::sync::Arc::new(Tally::default()));
/// # let _ = extensions;
/// ```
pub trait CallListener: Send + Sync {
    /// A container is there and the function was asked nothing yet. All are
    /// asked in the order they were registered, until one objects; the container
    /// stays as good as it was.
    ///
    /// # Errors
    /// What the caller is answered instead.
    fn before_call(&self, _call: &Call) -> Result<(), Objection> {
        Ok(())
    }

    /// The call is over and answered. Of those calls only that no listener
    /// objected to.
    fn after_call(&self, _call: &Call, _result: &Result<(), CallError>) {}
}

/// Changes calls before they are looked at any further; there is one at most.
///
/// ```
/// use hob::call::{Call, Objection};
/// use hob::extend::CallOverrider;
///
/// /// Tells functions which site they run at.
/// struct Site(&'static str);
///
/// impl CallOverrider for Site {
///     fn override_call(&self, call: &mut Call) -> Result<(), Objection> {
///         call.fields.extend_from_slice(format!("X-Site: {}\r\n", self.0).as_bytes());
///         Ok(())
///     }
/// }
///
/// let extensions = hob::extend::Extensions::default().overrider(std::sync::Arc::new(Site("north")))?;
/// # let _ = extensions;
/// # Ok::<(), hob::extend::Twice>(())
/// ```
pub trait CallOverrider: Send + Sync {
    /// May change what is sent and to whom. `call.spec` is shared and stands for
    /// containers of exactly that configuration: replace it as a whole, by one
    /// made with [`crate::model::FnSpec::derive`]; its key comes with it. A
    /// detached call is changed before each of its runs, not when it is accepted.
    ///
    /// # Errors
    /// What the caller is answered instead; a detached call fails with it.
    fn override_call(&self, call: &mut Call) -> Result<(), Objection>;
}

/// What a program registers before it starts the server.
///
/// ```no_run
/// use std::sync::Arc;
/// use hob::{config::Raw, extend::Extensions, server};
/// # fn my_driver() -> Arc<dyn hob::driver::Driver> { unimplemented!() }
///
/// fn main() -> std::process::ExitCode {
///     let config = Raw::from_env().parse().expect("valid settings");
///     let extensions = Extensions::default().driver(my_driver()).expect("the first");
///     server::run_with(config, extensions)
/// }
/// ```
#[derive(Clone, Default)]
pub struct Extensions {
    pub(crate) driver: Option<Arc<dyn Driver>>,
    listeners: Vec<Arc<dyn CallListener>>,
    overrider: Option<Arc<dyn CallOverrider>>,
}

/// There can be one only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a {0} is registered already")]
pub struct Twice(&'static str);

impl Extensions {
    /// One more listener, asked after those before.
    #[must_use]
    pub fn listener(mut self, listener: Arc<dyn CallListener>) -> Extensions {
        self.listeners.push(listener);
        self
    }

    /// # Errors
    /// There is one already.
    pub fn overrider(mut self, overrider: Arc<dyn CallOverrider>) -> Result<Extensions, Twice> {
        match self.overrider.replace(overrider) {
            None => Ok(self),
            Some(_) => Err(Twice("call overrider")),
        }
    }

    /// What makes containers, instead of what `HOB_DRIVER` says.
    ///
    /// # Errors
    /// There is one already.
    pub fn driver(mut self, driver: Arc<dyn Driver>) -> Result<Extensions, Twice> {
        match self.driver.replace(driver) {
            None => Ok(self),
            Some(_) => Err(Twice("driver")),
        }
    }

    /// Nobody wants to hear of calls or to change them.
    pub(crate) fn leave_calls_alone(&self) -> bool {
        self.listeners.is_empty() && self.overrider.is_none()
    }

    pub(crate) fn change(&self, call: &mut Call) -> Result<(), CallError> {
        match &self.overrider {
            Some(overrider) => overrider.override_call(call).map_err(CallError::Objected),
            None => Ok(()),
        }
    }

    pub(crate) fn before(&self, call: &Call) -> Result<(), CallError> {
        self.listeners.iter().try_for_each(|listener| listener.before_call(call)).map_err(CallError::Objected)
    }

    pub(crate) fn after(&self, call: &Call, result: &Result<(), CallError>) {
        self.listeners.iter().for_each(|listener| listener.after_call(call, result));
    }
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let driver = self.driver.as_ref().map(|driver| driver.name());
        f.debug_struct("Extensions").field("driver", &driver).field("listeners", &self.listeners.len()).field("overrider", &self.overrider.is_some()).finish()
    }
}
