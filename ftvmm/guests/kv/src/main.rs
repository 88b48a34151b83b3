//! kv
#![no_std]
#![no_main]
sdk::guest!(main, [network "service", block "storage"]);
fn main(_: &'static sdk::boot::BootInfo) -> i32 { 0 }
