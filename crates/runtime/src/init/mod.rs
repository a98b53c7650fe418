//! What runs in the child between clone and execve.
