// Package failpoint names the places at which the fault suite ends or holds up
// the bridge. In a build without the tag "failpoints" nothing of it is left.
package failpoint

// Point is a place in the code.
type Point string

// The places. Each lies between two steps whose order matters.
const (
	BeforePublish  Point = "before-publish"   // a batch is made, and nothing of it sent
	AfterPublish   Point = "after-publish"    // the sink has a batch, and nobody knows
	AfterAck       Point = "after-ack"        // the sink has said so, and the ledger does not know
	AfterClaim     Point = "after-claim"      // the flow is claimed, and nothing restored
	InTail         Point = "in-tail"          // some of the stream's tail is restored
	BeforeRecord   Point = "before-record"    // rows or a position are about to be recorded
	BetweenRows    Point = "between-rows"     // rows are recorded, and the state is not
	InSnapshot     Point = "in-snapshot"      // some of a snapshot is written
	AfterSnapshot  Point = "after-snapshot"   // a snapshot is written, and nothing refers to it
	InFirstList    Point = "in-first-list"    // some objects of a list, perhaps a first one, are on their way
	AfterList      Point = "after-list"       // the list is durable, and its end is not
	WhileDraining  Point = "while-draining"   // some of a CRD's objects are told as deleted
	AfterDrain     Point = "after-drain"      // all are, and the ledger says that there is a CRD
	AfterLostLease Point = "after-lost-lease" // another may lead, and this process has not ended
	BetweenEvents  Point = "between-events"   // of two events about one change, one is queued
)

// All are the places, for those who choose among them.
func All() []Point {
	return []Point{
		BeforePublish, AfterPublish, AfterAck, AfterClaim, InTail, BeforeRecord, BetweenRows, InSnapshot,
		AfterSnapshot, InFirstList, AfterList, WhileDraining, AfterDrain, AfterLostLease, BetweenEvents,
	}
}
