package sources

import (
	"context"
	"fmt"

	toolscache "k8s.io/client-go/tools/cache"

	"github.com/crbridge/crbridge/pkg/object"
)

// store is where the reflector puts what the watch brings. It holds nothing:
// each call goes to the handler, and may block there. No method returns an
// error but for a type that cannot occur: the reflector would log the error
// and go on with the next object.
type store struct {
	ctx     context.Context // of the informer's run; the reflector's interface has no room for it
	handler Handler
}

var (
	_ toolscache.ReflectorStore         = (*store)(nil)
	_ toolscache.ReflectorBookmarkStore = (*store)(nil)
)

func (s *store) Add(carried any) error    { return s.hand(carried, s.handler.Changed) }
func (s *store) Update(carried any) error { return s.hand(carried, s.handler.Changed) }
func (s *store) Delete(carried any) error { return s.hand(carried, s.handler.Deleted) }

func (s *store) hand(carried any, to func(context.Context, *object.Object)) error {
	c, ok := carried.(*carrier)
	if !ok || c.object == nil {
		return fmt.Errorf("%T where an object was to be", carried)
	}
	to(s.ctx, c.object)
	return nil
}

// Replace has nothing to do: listWatch has given the list to the handler page
// by page, and the reflector has seen an empty one.
func (s *store) Replace([]any, string) error { return nil }

// Resync is never anything: a resync is no change.
func (s *store) Resync() error { return nil }

// Bookmark passes on how far the watch has come while nothing changed.
func (s *store) Bookmark(resourceVersion string) error {
	s.handler.Progressed(s.ctx, resourceVersion)
	return nil
}
