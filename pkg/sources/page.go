package sources

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/crbridge/crbridge/pkg/object"
)

// A page is what of a list is in memory at once, and stays there while the
// handler blocks. It should have pageBytes, a round trip's worth of work, or less
// where many list; see Requests. Until an object's size is known a page has
// firstPage of them.
const (
	pageBytes = 256 << 10
	firstPage = 10
	mostPage  = 500
)

// pageLimit is how many objects the next page should have, going by the size
// of this page's. The next page is at most four times as large as this one, in
// case that one was no measure.
func (r *Requests) pageLimit(size, objects int, limit int64) int64 {
	if size == 0 || objects == 0 {
		return limit
	}
	return max(1, min(r.pageBytes()*int64(objects)/int64(size), 4*limit, mostPage))
}

// sizeOf is how much of a page the objects take.
func sizeOf(objects []*object.Object) (bytes int) {
	for _, o := range objects {
		bytes += len(o.JSON) + len(",")
	}
	return bytes
}

// lister asks for a list, or a part of it.
type lister func(context.Context, metav1.ListOptions) (runtime.Object, error)

// pages reads pages into the same memory, one after the other.
type pages struct {
	requests *Requests
	scanner  object.Scanner
	text     bytes.Buffer
}

// read asks for a page. Its objects are good until the next one is read.
func (p *pages) read(ctx context.Context, from lister, options metav1.ListOptions) (object.Page, error) {
	decoded, taken, err := p.ask(ctx, from, options, objectsWanted)
	switch {
	case err != nil:
		return object.Page{}, err
	case !taken:
		return pageOf(decoded)
	}
	page, err := p.scanner.List(p.text.Bytes())
	if !errors.Is(err, object.ErrUnusual) {
		return page, err
	}
	decoded, _, err = unstructured.UnstructuredJSONScheme.Decode(p.text.Bytes(), nil, nil)
	if err != nil {
		return object.Page{}, fmt.Errorf("a list: %w", err)
	}
	return pageOf(decoded)
}

// metadata asks for a page of metadata. Its objects have no JSON, and last. It
// fails with errNoMetadata where the API server answers with something else.
func (p *pages) metadata(ctx context.Context, from lister, options metav1.ListOptions) (page object.Page, bytes int, err error) {
	_, taken, err := p.ask(ctx, from, options, metadataWanted)
	switch {
	case err != nil:
		return object.Page{}, 0, err
	case !taken:
		return object.Page{}, 0, errNoMetadata
	}
	page, err = object.Metadata(p.text.Bytes())
	if err != nil {
		return object.Page{}, 0, fmt.Errorf("%w: %w", errNoMetadata, err)
	}
	return page, p.text.Len(), nil
}

// ask asks for a page, and reads its text if that can be taken; else client-go
// has decoded it.
func (p *pages) ask(ctx context.Context, from lister, options metav1.ListOptions, wanted wanted) (decoded runtime.Object, taken bool, err error) {
	defer p.requests.turn(ctx)()
	asking, a := asking(ctx, wanted)
	defer a.close()
	if decoded, err = from(asking, options); err != nil {
		return nil, false, err
	}
	body := a.take()
	if body == nil {
		return decoded, false, nil
	}
	p.text.Reset()
	if _, err := p.text.ReadFrom(body); err != nil {
		return nil, false, fmt.Errorf("reading a list: %w", err)
	}
	return nil, true, nil
}

// pageOf is a page that Kubernetes' own decoders have read.
func pageOf(decoded runtime.Object) (p object.Page, err error) {
	list, ok := decoded.(*unstructured.UnstructuredList)
	if !ok {
		return p, fmt.Errorf("%T where *unstructured.UnstructuredList was asked for", decoded)
	}
	p.ResourceVersion, p.Continue = list.GetResourceVersion(), list.GetContinue()
	p.Objects = make([]*object.Object, len(list.Items))
	for i := range list.Items {
		if p.Objects[i], err = object.Of(list.Items[i].Object); err != nil {
			return p, err
		}
	}
	return p, nil
}
