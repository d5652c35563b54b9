package status

import (
	"net"
	"net/http"
	"strings"
)

// forOwnPages refuses what pages of other sites have a browser ask for. A
// browser on an operator's machine reaches what only that machine should, such
// as a forwarded port, and any page that is open in it can send it there. Two
// things in a request tell that, and no page can change them:
//
// Sec-Fetch-Site says whose page asks. Another site may lead to a page of ours,
// by a link, and to nothing else. Programs do not send it, nor do browsers to an
// address that is neither loopback nor HTTPS.
//
// Host is the name that the browser was told. Of a page whose own name was made
// to lead here (DNS rebinding) the browser thinks that it asks its own server;
// but the name is not one of this machine. That is looked at where nobody has
// to say who they are, for what comes to loopback: elsewhere any name may be
// right, and a page that knows no token gets nothing.
func forOwnPages(next http.Handler, open bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if open && toLoopback(r) && !ofThisMachine(r.Host) {
			http.Error(w, "over loopback this is for localhost, 127.0.0.1 and [::1], lest pages of other sites read it, and not for the host that was asked for: "+
				"ask for http://localhost:PORT/; a proxy has to send Host: localhost; or set server.auth to kubernetes", http.StatusMisdirectedRequest)
			return
		}
		if fromOtherSite(r) {
			http.Error(w, "a page of another site asks for this, which only the bridge's own pages may: type the address, or begin at /", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// fromOtherSite tells whether a page of another site, or of another port of
// this one, asks for anything but to go to a page of ours.
func fromOtherSite(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none": // none is a person, who typed it
		return false
	}
	page := r.URL.Path == "/" || r.URL.Path == "/events"
	return !page || r.Method != http.MethodGet || r.Header.Get("Sec-Fetch-Mode") != "navigate" || r.Header.Get("Sec-Fetch-Dest") != "document"
}

// ofThisMachine tells whether a Host header can mean nothing but the machine
// that the browser runs on: browsers ask no DNS server for these.
func ofThisMachine(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	return net.ParseIP(strings.Trim(host, "[]")).IsLoopback()
}

// toLoopback tells whether the connection was made to an address that only the
// machine itself reaches.
func toLoopback(r *http.Request) bool {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return local != nil && loopback(local.String())
}

func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && net.ParseIP(host).IsLoopback()
}
