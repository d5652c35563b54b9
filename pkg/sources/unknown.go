package sources

import (
	"context"
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/crbridge/crbridge/pkg/object"
)

// errNoMetadata is about an API server that has no metadata to list, or whose
// objects are not those whose metadata it listed: whole objects are listed then.
var errNoMetadata = errors.New("the API server's lists of metadata are of no use")

// pick asks for the object that has the name, as it was at a resource version.
// The answer is a list.
type pick func(ctx context.Context, namespace, name, resourceVersion string) (runtime.Object, error)

// Asking for one object costs the bridge about as much as reading requestBytes
// of a page, see BenchmarkRelist in test/sources. atLeast objects of a page are
// asked for one by one all the same. typicalBytes are what an object is taken to
// have while nobody has seen one.
const (
	requestBytes = 64 << 10
	atLeast      = 4
	typicalBytes = 4 << 10
)

// unknown is a list of metadata, of which the handler is given the objects that
// it does not know.
type unknown struct {
	*listWatch
	pages pages
	// at is the resource version of the list. The objects are asked for as they
	// were then: of what has changed since the watch tells, which begins there,
	// and a newer version given here would have it leave out those in between.
	at string
	// bytes and objects are what was read of whole objects, and limit how many
	// the next page of those may have.
	bytes, objects int
	limit          int64
}

// listUnknown gives a list to the handler, of whose objects it is shown those
// that it does not know. Options are the first page's.
func (l *listWatch) listUnknown(ctx context.Context, options metav1.ListOptions) (string, error) {
	u := unknown{listWatch: l, pages: pages{requests: l.requests}, limit: firstPage}
	for first := true; ; first = false {
		page, bytes, err := u.pages.metadata(ctx, l.inner.ListWithContext, options)
		if err != nil {
			return "", err
		}
		if first { // all pages are of the same moment
			u.at = page.ResourceVersion
			if err := l.handler.ListStarted(ctx, u.at); err != nil {
				return "", err
			}
		}
		if err := u.show(ctx, page.Objects, options.Continue); err != nil {
			return "", err
		}
		if page.Continue == "" {
			l.handler.ListFinished(ctx, u.at)
			return u.at, ctx.Err()
		}
		options.Continue, options.Limit = page.Continue, l.requests.pageLimit(bytes, len(page.Objects), options.Limit)
	}
}

// show gives the handler those objects of a page of metadata that it does not
// know. token is what the page was asked for with.
func (u *unknown) show(ctx context.Context, page []*object.Object, token string) error {
	var wanted []*object.Object
	for _, o := range page {
		if !u.handler.Unchanged(ctx, o) {
			wanted = append(wanted, o)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(wanted) <= u.few(len(page)) {
		return u.showEach(ctx, wanted)
	}
	return u.showPage(ctx, page, wanted, token)
}

// few is how many objects of a page are better asked for one by one.
func (u *unknown) few(page int) int {
	size := typicalBytes
	if u.objects > 0 {
		size = u.bytes / u.objects
	}
	return max(atLeast, page*size/requestBytes)
}

// showEach asks for each object.
func (u *unknown) showEach(ctx context.Context, wanted []*object.Object) error {
	for _, o := range wanted {
		page, err := u.pages.read(ctx, func(ctx context.Context, _ metav1.ListOptions) (runtime.Object, error) {
			return u.pick(ctx, o.Namespace, o.Name, u.at)
		}, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(page.Objects) != 1 {
			return fmt.Errorf("%w: %d objects are %s at resource version %s", errNoMetadata, len(page.Objects), o.Key(), u.at)
		}
		if err := u.give(ctx, page.Objects[0], o); err != nil {
			return err
		}
	}
	return nil
}

// showPage asks for the page's objects in pages of their own: a token leads on
// to the same objects, whatever is asked for of them.
func (u *unknown) showPage(ctx context.Context, page, wanted []*object.Object, token string) error {
	options := metav1.ListOptions{Continue: token}
	if token == "" {
		options.ResourceVersion, options.ResourceVersionMatch = u.at, metav1.ResourceVersionMatchExact
	}
	for len(wanted) > 0 {
		options.Limit = min(u.limit, int64(len(page)))
		part, err := u.pages.read(ctx, u.inner.ListWithContext, options)
		if err != nil {
			return err
		}
		if len(part.Objects) == 0 || len(part.Objects) > len(page) {
			return fmt.Errorf("%w: %d objects where %d were to come", errNoMetadata, len(part.Objects), len(page))
		}
		u.limit = u.requests.pageLimit(sizeOf(part.Objects), len(part.Objects), u.limit)
		for i, o := range part.Objects {
			switch {
			case len(wanted) > 0 && page[i] == wanted[0]:
				if err := u.give(ctx, o, wanted[0]); err != nil {
					return err
				}
				wanted = wanted[1:]
			default:
				u.count(o)
			}
		}
		page = page[len(part.Objects):]
		options = metav1.ListOptions{Continue: part.Continue}
		if part.Continue == "" && len(wanted) > 0 {
			return fmt.Errorf("%w: %s and what follows it did not come", errNoMetadata, wanted[0].Key())
		}
	}
	return nil
}

// give gives an object to the handler, if it is what the metadata said.
func (u *unknown) give(ctx context.Context, o, listed *object.Object) error {
	if o.Namespace != listed.Namespace || o.Name != listed.Name || o.UID != listed.UID || o.ResourceVersion != listed.ResourceVersion {
		return fmt.Errorf("%w: %s is %s in version %s where it was %s in version %s", errNoMetadata,
			o.Key(), o.UID, o.ResourceVersion, listed.UID, listed.ResourceVersion)
	}
	u.count(o)
	u.handler.Listed(ctx, o)
	return ctx.Err()
}

// count takes the object for a measure of others.
func (u *unknown) count(o *object.Object) {
	u.bytes += len(o.JSON)
	u.objects++
}
