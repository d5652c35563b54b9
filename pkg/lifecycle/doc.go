// Package lifecycle decides which flows run. A controller watches the
// CustomResourceDefinitions and tells the supervisor of each one's state; the
// supervisor starts a flow when its CRD appears, drains it when the CRD is
// gone, and builds a new run of it when the CRD returns or another of its
// versions must be watched.
package lifecycle
