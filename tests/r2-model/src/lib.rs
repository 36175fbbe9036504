//! r2-model
