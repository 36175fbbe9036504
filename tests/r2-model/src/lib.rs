//! Cloudflare R2's S3 API in memory, for tests: semantics as documented and captured, one lock,
//! HTTP on the loopback interface.
//!
//! ```text
//! socket (server) → HTTP, log, faults (front) → signature, chunked bodies (s3s, service)
//!                 → operations (api) → buckets under one lock (state, upload, listing)
//! ```
//!
//! [`R2Model`] starts a server and is the test's handle to it. Every test has its own.
//!
//! ```
//! use r2_model::{Ending, Fault, FaultRule, Operation, R2Model};
//!
//! let model = R2Model::start();
//! model.put("Kicks/deep.wav", "RIFF");
//! // The first write to this folder is committed, but the client never hears of it.
//! let lost = model.add_fault(
//!     FaultRule::new(Fault::Lost(Ending::Cut))
//!         .on(&[Operation::PutObject])
//!         .key_prefix("Kicks/")
//!         .once(),
//! );
//! // … point a client at `model.endpoint()`, `model.bucket()` and the two keys …
//! assert_eq!(model.fired(lost), 0);
//! assert!(model.requests().is_empty());
//! ```

mod api;
mod condition;
mod content;
mod dates;
mod error;
mod fault;
mod front;
mod history;
mod key;
mod line;
mod listing;
mod log;
mod model;
mod operation;
mod other_client;
mod plan;
mod range;
mod refused;
mod server;
mod service;
mod shape;
mod state;
mod token;
mod upload;
mod xml;

pub use content::generated_bytes;
pub use fault::{Ending, Fault, FaultRule, Hook, Reply};
pub use history::Written;
pub use line::{Line, LineOptions};
pub use log::{Costs, RequestRecord};
pub use model::{Builder, R2Model, UploadInfo};
pub use operation::{Class, Operation};
pub use other_client::{Object, OtherClient};
pub use plan::FaultId;
pub use server::Connections;
pub use state::{RateViolation, RetryAfter};
pub use token::{Permission, Token};
