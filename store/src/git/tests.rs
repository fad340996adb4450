//! Captured and rebuilt repositories beside what real git says of both.

mod lab;
mod capturing;
mod states;
mod fidelity;
mod hostile;
mod linked;
mod moving;

/// Where captured repositories go.
type Objects = crate::objects::memory::MemoryObjects;
