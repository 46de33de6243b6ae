//! Slot queues.
