//! What only this store has: a disk that is full, plans of statements, files of earlier releases and files that shrink.

mod cost;
mod faults;
mod migrate;
mod old;
mod plans;
mod shares;
mod shrink;
