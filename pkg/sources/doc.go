// Package sources follows the objects of one custom resource at the API
// server and hands what it hears to a Handler: complete lists, and every
// change in between, in the order in which the API server made them.
//
// It knows no configuration, no event, no queue and no sink. It keeps no
// object: a handler that blocks makes the API server the buffer.
package sources
