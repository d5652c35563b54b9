package sources

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	toolscache "k8s.io/client-go/tools/cache"
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

func (s *store) Add(object any) error    { return s.hand(object, s.handler.Changed) }
func (s *store) Update(object any) error { return s.hand(object, s.handler.Changed) }
func (s *store) Delete(object any) error { return s.hand(object, s.handler.Deleted) }

func (s *store) hand(object any, to func(context.Context, *unstructured.Unstructured)) error {
	u, ok := object.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("%T where *unstructured.Unstructured was asked for", object)
	}
	to(s.ctx, u)
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
