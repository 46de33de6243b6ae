//! Everything calls and lists read, as of the last committed write.
//!
//! The maps share structure: a write copies the path to what it changes, not
//! the map. Look-ups for calls allocate nothing.

use std::ops::Bound;
use std::sync::Arc;

use imbl::{HashMap, OrdMap};

use crate::model::{App, Fn, FnSpec, Id, Trigger};

/// A function with its app and its derived run configuration.
#[derive(Debug)]
pub struct Target {
    pub app: Arc<App>,
    pub function: Arc<Fn>,
    pub spec: Arc<FnSpec>,
}

/// Everything the hot path reads, as of the last committed write.
#[derive(Debug, Default, Clone)]
pub struct Snapshot {
    apps: HashMap<Id, Arc<AppNode>>,
    names: OrdMap<Arc<str>, Arc<AppNode>>,
    targets: HashMap<Id, Arc<Target>>,
    /// Those of them that ask for containers before anybody calls.
    kept_up: OrdMap<Id, Arc<Target>>,
    triggers: HashMap<Id, Arc<Trigger>>,
}

/// An app and what is in it.
#[derive(Debug, Clone)]
struct AppNode {
    app: Arc<App>,
    fns: OrdMap<Arc<str>, Id>,
    /// Names are unique per fn only, hence the id.
    triggers: OrdMap<(Arc<str>, Id), Arc<Trigger>>,
    /// HTTP triggers by source.
    routes: HashMap<Arc<str>, Arc<Trigger>>,
}

// What calls read.
impl Snapshot {
    /// Functions that ask for containers before anybody calls.
    pub fn kept_up(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.kept_up.values()
    }

    /// The function with this id.
    pub fn target(&self, fn_id: &Id) -> Option<&Arc<Target>> {
        self.targets.get(fn_id)
    }

    /// The app with this name.
    pub fn app_by_name(&self, name: &str) -> Option<&Arc<App>> {
        self.names.get(name).map(|node| &node.app)
    }

    /// The HTTP trigger of the app at this source (with its leading `/`), and
    /// the function it leads to.
    pub fn trigger(&self, app_name: &str, source: &str) -> Option<(&Arc<Trigger>, &Arc<Target>)> {
        let trigger = self.names.get(app_name)?.routes.get(source)?;
        Some((trigger, self.targets.get(&trigger.fn_id)?))
    }
}

// What the management API reads.
impl Snapshot {
    /// The app with this id.
    pub fn app(&self, id: &Id) -> Option<&Arc<App>> {
        self.apps.get(id).map(|node| &node.app)
    }

    /// The trigger with this id.
    pub fn trigger_by_id(&self, id: &Id) -> Option<&Arc<Trigger>> {
        self.triggers.get(id)
    }

    /// The app's trigger of this type at this source.
    pub fn trigger_by_source(&self, app_id: &Id, kind: &str, source: &str) -> Option<&Arc<Trigger>> {
        self.apps.get(app_id)?.routes.get(source).filter(|t| t.kind == kind)
    }

    /// How many fns there are.
    pub fn fn_count(&self) -> usize {
        self.targets.len()
    }

    /// Apps in the order of their names, from the first one after `after`.
    pub fn apps_after<'s>(&'s self, after: &str) -> impl Iterator<Item = &'s Arc<App>> + use<'s> {
        self.names.range::<_, str>((Bound::Excluded(after), Bound::Unbounded)).map(|(_, node)| &node.app)
    }

    /// An app's fns in the order of their names, from the first one after `after`.
    pub fn fns_after<'s>(&'s self, app_id: &Id, after: &str) -> impl Iterator<Item = &'s Arc<Target>> + use<'s> {
        let node = self.apps.get(app_id);
        node.into_iter().flat_map({
            let after: Arc<str> = Arc::from(after);
            move |node| node.fns.range((Bound::Excluded(after.clone()), Bound::Unbounded)).filter_map(|(_, id)| self.targets.get(id))
        })
    }

    /// The app's fn with this name.
    pub fn fn_by_name(&self, app_id: &Id, name: &str) -> Option<&Arc<Target>> {
        self.targets.get(self.apps.get(app_id)?.fns.get(name)?)
    }

    /// An app's triggers in the order of name and id, from the first one after
    /// `after`.
    pub fn triggers_after<'s>(&'s self, app_id: &Id, after: (&str, Id)) -> impl Iterator<Item = &'s Arc<Trigger>> + use<'s> {
        let node = self.apps.get(app_id);
        node.into_iter().flat_map({
            let after: (Arc<str>, Id) = (Arc::from(after.0), after.1);
            move |node| node.triggers.range((Bound::Excluded(after.clone()), Bound::Unbounded)).map(|(_, trigger)| trigger)
        })
    }

    /// The fn's trigger with this name.
    pub(super) fn trigger_by_name(&self, app_id: &Id, fn_id: &Id, name: &str) -> Option<&Arc<Trigger>> {
        let node = self.apps.get(app_id)?;
        let from: (Arc<str>, Id) = (Arc::from(name), Id::MIN);
        node.triggers.range(from..).map(|(_, t)| t).take_while(|t| t.name == name).find(|t| t.fn_id == *fn_id)
    }
}

// What writes do to a copy.
impl Snapshot {
    /// A new app, or a new state of one: its functions run with its
    /// configuration, so their targets are made anew.
    pub(super) fn put_app(&mut self, app: Arc<App>) {
        let node = match self.apps.get(&app.id) {
            Some(old) => AppNode { app: app.clone(), ..AppNode::clone(old) },
            None => AppNode { app: app.clone(), fns: OrdMap::new(), triggers: OrdMap::new(), routes: HashMap::new() },
        };
        for (_, id) in &node.fns {
            let Some(old) = self.targets.get(id) else { continue };
            let target = target(&app, old.function.clone());
            self.put_target(target);
        }
        self.put_node(node);
    }

    /// Removes the app with everything in it.
    pub(super) fn remove_app(&mut self, id: &Id) {
        let Some(node) = self.apps.remove(id) else { return };
        self.names.remove(node.app.name.as_str());
        for (_, fn_id) in &node.fns {
            self.targets.remove(fn_id);
            self.kept_up.remove(fn_id);
        }
        for (_, trigger) in &node.triggers {
            self.triggers.remove(&trigger.id);
        }
    }

    /// A new fn, or a new state of one. False when its app is not there.
    pub(super) fn put_fn(&mut self, function: Arc<Fn>) -> bool {
        let Some(node) = self.apps.get(&function.app_id) else { return false };
        if !node.fns.contains_key(function.name.as_str()) {
            let mut node = AppNode::clone(node);
            node.fns.insert(Arc::from(function.name.as_str()), function.id);
            self.put_target(target(&node.app, function));
            self.put_node(node);
        } else {
            let target = target(&node.app, function);
            self.put_target(target);
        }
        true
    }

    fn put_target(&mut self, target: Arc<Target>) {
        let id = target.function.id;
        if target.spec.limits.min_instances > 0 {
            self.kept_up.insert(id, target.clone());
        } else {
            self.kept_up.remove(&id);
        }
        self.targets.insert(id, target);
    }

    /// Removes the fn and its triggers.
    pub(super) fn remove_fn(&mut self, function: &Fn) {
        self.targets.remove(&function.id);
        self.kept_up.remove(&function.id);
        let Some(node) = self.apps.get(&function.app_id) else { return };
        let mut node = AppNode::clone(node);
        node.fns.remove(function.name.as_str());
        let gone: Vec<Arc<Trigger>> = node.triggers.values().filter(|t| t.fn_id == function.id).cloned().collect();
        for trigger in gone {
            node.drop_trigger(&trigger);
            self.triggers.remove(&trigger.id);
        }
        self.put_node(node);
    }

    /// A new trigger, or a new state of one. False when its app or fn is not
    /// there.
    pub(super) fn put_trigger(&mut self, trigger: Arc<Trigger>) -> bool {
        let Some(node) = self.apps.get(&trigger.app_id) else { return false };
        if !self.targets.contains_key(&trigger.fn_id) {
            return false;
        }
        let mut node = AppNode::clone(node);
        if let Some(old) = self.triggers.insert(trigger.id, trigger.clone()) {
            node.drop_trigger(&old);
        }
        node.triggers.insert((Arc::from(trigger.name.as_str()), trigger.id), trigger.clone());
        // A database of the original may have two of one source: the first stays.
        let first = !node.routes.contains_key(trigger.source.as_str());
        if trigger.kind == Trigger::HTTP && first {
            node.routes.insert(Arc::from(trigger.source.as_str()), trigger);
        }
        self.put_node(node);
        true
    }

    pub(super) fn remove_trigger(&mut self, trigger: &Trigger) {
        self.triggers.remove(&trigger.id);
        let Some(node) = self.apps.get(&trigger.app_id) else { return };
        let mut node = AppNode::clone(node);
        node.drop_trigger(trigger);
        self.put_node(node);
    }

    fn put_node(&mut self, node: AppNode) {
        let node = Arc::new(node);
        self.names.insert(Arc::from(node.app.name.as_str()), node.clone());
        self.apps.insert(node.app.id, node);
    }
}

impl AppNode {
    fn drop_trigger(&mut self, trigger: &Trigger) {
        self.triggers.remove(&(Arc::from(trigger.name.as_str()), trigger.id));
        if self.routes.get(trigger.source.as_str()).is_some_and(|t| t.id == trigger.id) {
            self.routes.remove(trigger.source.as_str());
        }
    }
}

fn target(app: &Arc<App>, function: Arc<Fn>) -> Arc<Target> {
    let spec = Arc::new(FnSpec::derive(app, &function));
    Arc::new(Target { app: app.clone(), function, spec })
}
