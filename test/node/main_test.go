//go:build linux && cluster

package node_test

import (
	"os"
	"testing"

	"github.com/crbridge/crbridge/test/node"
)

// shared is the node of the tests that leave it running. Each of them has
// namespaces of its own.
var shared node.Shared

func TestMain(m *testing.M) { os.Exit(shared.Run(m)) }
