//! The personality as an image. `ftvmm pack` puts a program beside it.
#![no_std]
#![no_main]

sdk::guest!(personality::main, [], heap_parts: personality::HEAP_PARTS);
