//! image-service
