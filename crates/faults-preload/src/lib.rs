//! The library that is preloaded into the program under test (`LD_PRELOAD`). It wraps libc's functions on files and sockets:
//! they make the same system calls, with the faults that a harness (the test that runs the program) sets. The crate `faults`
//! is the harness's side, and documents what is simulated.
//!
//! Without the variables of `faults::Control::command_env` in the environment, every call goes directly to
//! the kernel.

#![cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]

mod calls;
mod directory;
mod files;
mod kill;
mod state;
mod system;
