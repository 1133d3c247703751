//! Where requests to object stores run: a few threads of their own, so that those of the engine
//! stay what they are. Whoever waits for one may be in another runtime itself.

use std::sync::mpsc::{Receiver, sync_channel};

/// Threads: requests wait for the network, and sums and ciphers take little.
const THREADS: usize = 2;

#[derive(Debug)]
pub(super) struct Runtime {
    /// None while it is dropped.
    runtime: Option<tokio::runtime::Runtime>,
}

/// What a request gives, when it is done.
#[derive(Debug)]
pub(super) struct Pending<T>(Receiver<T>);

impl<T> Pending<T> {
    pub(super) fn wait(self) -> T {
        self.0.recv().expect("requests do not panic")
    }
}

impl Runtime {
    pub(super) fn new() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("objects")
            .enable_all()
            .build()?;
        Ok(Self {
            runtime: Some(runtime),
        })
    }

    /// Begins a request.
    pub(super) fn start<T: Send + 'static>(
        &self,
        request: impl Future<Output = T> + Send + 'static,
    ) -> Pending<T> {
        let (send, receive) = sync_channel(1);
        let runtime = self.runtime.as_ref().expect("it is not dropped");
        runtime.spawn(async move {
            // There is room for one; nobody may want it any more.
            let _ = send.send(request.await);
        });
        Pending(receive)
    }

    /// Does a request.
    pub(super) fn run<T: Send + 'static>(
        &self,
        request: impl Future<Output = T> + Send + 'static,
    ) -> T {
        self.start(request).wait()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // What is not waited for is a read that nobody wants. Waiting for it would panic in
            // another runtime.
            runtime.shutdown_background();
        }
    }
}
