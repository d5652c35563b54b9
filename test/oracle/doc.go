// Package oracle judges a bridge by what it did. It records etcd's own history
// of the custom resources ([History]) and everything that the stream ever held
// ([Tap]), and [Check] compares the two by the rules that users are promised.
//
// It shares no code with the bridge, so that an error of the bridge is not made
// here a second time, and it looks at nothing but etcd and the stream.
//
// Its order of use: record both from before the bridge runs; do harm; let the
// bridge come to rest; Sync the tap, then the history, so that no event tells
// of a version that is not recorded yet; Check.
package oracle
