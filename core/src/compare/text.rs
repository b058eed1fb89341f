//! A comparison for people.
