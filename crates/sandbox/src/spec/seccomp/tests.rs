//! Filters judged by running them: an interpreter of classic BPF, and what profiles mean, said in the plainest way.

mod default;
mod machine;
mod meaning;
mod parsing;
