package status

import (
	"net/http"
	"net/http/pprof"
)

// profiles serves Go's profiles of the process. Importing net/http/pprof puts
// them on http.DefaultServeMux as well (and so do libraries that import it),
// which is why nothing here serves that one. Where nobody has to say who they
// are, they are for those who connect over loopback.
func profiles(mux *http.ServeMux, open bool) {
	for pattern, handler := range map[string]http.HandlerFunc{
		"GET /debug/pprof/":        pprof.Index, // and heap, goroutine, allocs, … by their names
		"GET /debug/pprof/cmdline": pprof.Cmdline,
		"GET /debug/pprof/profile": pprof.Profile,
		"GET /debug/pprof/symbol":  pprof.Symbol,
		"POST /debug/pprof/symbol": pprof.Symbol, // what go tool pprof uses where there are many
		"GET /debug/pprof/trace":   pprof.Trace,
	} {
		if open {
			handler = fromMachine(handler)
		}
		mux.HandleFunc(pattern, handler)
	}
}

// fromMachine refuses who asks from elsewhere. To read metrics and status is
// harmless to the bridge, a profile is not: it shows the command line and how
// the process is built, and costs CPU for as long as its reader likes. While
// nobody has to say who they are, a connection over loopback is what tells an
// operator from others: in a pod, that takes the right to forward its ports.
// Pages in the operator's browser are kept out by forOwnPages.
//
// Both ends count. Service meshes hand on what comes from outside with a
// loopback address as its source, and the pod's own as its destination.
func fromMachine(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !toLoopback(r) || !loopback(r.RemoteAddr) {
			http.Error(w, "profiles are for those who connect over loopback, which kubectl port-forward does", http.StatusForbidden)
			return
		}
		next(w, r)
	}
}
