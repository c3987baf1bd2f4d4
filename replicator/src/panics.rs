//! What a panic is worth. A replicator that has met a state which can't be is not to go on writing: its
//! process ends at once, whichever thread it was in, as if it were killed; that is survived. A proxy
//! is different: its sessions have nothing to do with each other, and a defect that one of them hits
//! must not disconnect all. So everything is built to unwind, and all processes but the proxy abort
//! from the hook that runs before.

/// From here on a panic in any thread ends the process, once it is told of.
pub fn abort() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
}
