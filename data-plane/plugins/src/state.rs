//! State that outlives a snapshot: one value per type, of a core or of the whole node.
//!
//! Both stores hold a handful of entries, so a scan beats a hash.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

/// The state of one core.
#[derive(Default)]
pub struct CoreStates(RefCell<Vec<(TypeId, Rc<dyn Any>)>>);

impl CoreStates {
    /// The value of type `T`, made at its first use.
    pub fn of<T: Default + 'static>(&self) -> Rc<T> {
        let id = TypeId::of::<T>();
        let found = self
            .0
            .borrow()
            .iter()
            .find(|(key, _)| *key == id)
            .map(|(_, v)| Rc::clone(v));
        let value = found.unwrap_or_else(|| {
            let made: Rc<dyn Any> = Rc::new(T::default());
            self.0.borrow_mut().push((id, Rc::clone(&made)));
            made
        });
        value
            .downcast()
            .expect("an entry holds a value of the type that it is filed under")
    }
}

impl fmt::Debug for CoreStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoreStates").finish_non_exhaustive()
    }
}

/// The state of one node, shared by its cores.
#[derive(Default)]
pub struct NodeStates(Mutex<Vec<(TypeId, Arc<dyn Any + Send + Sync>)>>);

impl NodeStates {
    /// The value of type `T`, if it is in use.
    pub(crate) fn find<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, value) = entries.iter().find(|(key, _)| *key == TypeId::of::<T>())?;
        Arc::clone(value).downcast().ok()
    }

    /// The value of type `T`, made at its first use.
    pub fn of<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        let id = TypeId::of::<T>();
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = entries
            .iter()
            .find(|(key, _)| *key == id)
            .map(|(_, v)| Arc::clone(v));
        let value = found.unwrap_or_else(|| {
            let made: Arc<dyn Any + Send + Sync> = Arc::new(T::default());
            entries.push((id, Arc::clone(&made)));
            made
        });
        value
            .downcast()
            .expect("an entry holds a value of the type that it is filed under")
    }
}

impl fmt::Debug for NodeStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeStates").finish_non_exhaustive()
    }
}
