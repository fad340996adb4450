//! Captured and rebuilt repositories beside what real git says of both.

mod cut;
pub(crate) mod lab;
mod states;
mod fidelity;
mod hostile;
mod linked;
mod moving;

// Where captured repositories go, in the labs here.
use crate::objects::memory::MemoryObjects;
