//! The command line of Brazier.

/// A step asks for the same large buffers as the last one, and a tokenizer for many small ones.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    keep_freed_pages();
    brazier::cli::main()
}

/// Keeps what was freed, instead of giving it back to the system and taking it again, zeroed page by page, in the next
/// step. `MIMALLOC_PURGE_DELAY` in the environment still decides.
#[expect(unsafe_code, reason = "an option of a C library")]
fn keep_freed_pages() {
    /// `mi_option_purge_delay`, which the crate does not name; a delay of -1 is for ever.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: stores a number in a table, before there are threads.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, -1) };
}
