//! Backends that are asked over HTTP/2: what clients see is what they see of HTTP/1, over one connection
//! that many requests share.
