//! Work that blocks, away from the async threads.
//!
//! Owns [`blocking`] and [`Lent`]. Invariant: no thread waits here for a peer, so slow uploads and downloads, however
//! many, cannot use up the pool.

use std::mem;
use std::panic::resume_unwind;

use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use crate::BlobError;

/// Runs `work` on a thread that may block. If the future is dropped, the work goes on and its result is dropped there.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(stopped(error)))
}

fn stopped(error: JoinError) -> BlobError {
    match error.try_into_panic() {
        Ok(panic) => resume_unwind(panic),
        Err(_) => BlobError::Abandoned { why: "the program is ending" },
    }
}

/// A value that one blocking job at a time works on, while its owner does something else.
///
/// A job that fails loses the value, so no later one can go on from a half-done state. It is dropped on a blocking
/// thread too, as the last reference to a large file can take long to close.
#[derive(Debug)]
pub(crate) struct Lent<T: Send + 'static>(State<T>);

#[derive(Debug)]
enum State<T> {
    Home(T),
    Out(JoinHandle<Result<T, BlobError>>),
    Lost,
}

impl<T: Send + 'static> Lent<T> {
    pub(crate) fn new(value: T) -> Lent<T> {
        Lent(State::Home(value))
    }

    /// Waits for the job, if one is running. Can be dropped and called again.
    pub(crate) async fn settle(&mut self) -> Result<&mut T, BlobError> {
        if let State::Out(job) = &mut self.0 {
            let done = job.await;
            self.0 = State::Lost;
            self.0 = State::Home(done.unwrap_or_else(|error| Err(stopped(error)))?);
        }
        match &mut self.0 {
            State::Home(value) => Ok(value),
            _ => Err(lost()),
        }
    }

    /// Whether [`Lent::settle`] has nothing to wait for.
    pub(crate) fn is_settled(&self) -> bool {
        !matches!(&self.0, State::Out(job) if !job.is_finished())
    }

    /// Waits for the job, if one is running, then takes the value for good.
    pub(crate) async fn take(mut self) -> Result<T, BlobError> {
        self.settle().await?;
        match mem::replace(&mut self.0, State::Lost) {
            State::Home(value) => Ok(value),
            _ => Err(lost()),
        }
    }

    /// Starts a job, if the value is at home; after a failure it stays lost. To be called once settled.
    pub(crate) fn lend(&mut self, job: impl FnOnce(T) -> Result<T, BlobError> + Send + 'static) {
        self.0 = match mem::replace(&mut self.0, State::Lost) {
            State::Home(value) => State::Out(spawn_blocking(move || job(value))),
            other => other,
        };
    }
}

fn lost() -> BlobError {
    BlobError::Abandoned { why: "it failed before" }
}

impl<T: Send + 'static> Drop for Lent<T> {
    fn drop(&mut self) {
        if let State::Home(value) = mem::replace(&mut self.0, State::Lost)
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn_blocking(move || drop(value));
        }
    }
}
