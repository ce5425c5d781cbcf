//! What is preloaded into the program under test (`LD_PRELOAD`): functions of libc on files and sockets,
//! which do the same by way of system calls, and with the faults that a harness asks for. The harness's side,
//! and what is played, is in `faults`.
//!
//! Without the variables of `faults::Control::command_env` in the environment, every call goes straight to
//! the kernel.

#![cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]

mod calls;
mod directory;
mod files;
mod kill;
mod state;
mod system;
