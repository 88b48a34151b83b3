//! The console. A line is gathered first, because each write is an exit.

use core::fmt::{Arguments, Result, Write};

use crate::hypercall;

struct Console {
    gathered: [u8; 512],
    length: usize,
}

impl Console {
    fn flush(&mut self) {
        if self.length > 0 {
            hypercall::puts(&self.gathered[..self.length]);
            self.length = 0;
        }
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> Result {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let free = &mut self.gathered[self.length..];
            let count = free.len().min(rest.len());
            free[..count].copy_from_slice(&rest[..count]);
            self.length += count;
            rest = &rest[count..];
            if self.length == self.gathered.len() {
                self.flush();
            }
        }
        Ok(())
    }
}

/// What [`print!`] and [`println!`] call.
pub fn print(arguments: Arguments) {
    let mut console = Console { gathered: [0; 512], length: 0 };
    let _ = console.write_fmt(arguments); // fails only where a Display implementation does
    console.flush();
}

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::console::print(format_args!($($argument)*)) };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => { $crate::console::print(format_args!("{}\n", format_args!($($argument)*))) };
}
