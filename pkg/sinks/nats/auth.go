package nats

import (
	"errors"
	"fmt"
	"strings"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/crbridge/crbridge/pkg/settings"
)

func (a Auth) check() error {
	kinds := 0
	for _, file := range []string{a.CredentialsFile, a.NKeyFile, a.UserFile + a.PasswordFile, a.TokenFile} {
		if file != "" {
			kinds++
		}
	}
	if kinds > 1 {
		return errors.New("auth: one of credentialsFile, nkeyFile, userFile with passwordFile, tokenFile, not several")
	}
	if (a.UserFile == "") != (a.PasswordFile == "") {
		return errors.New("auth: userFile and passwordFile go together")
	}
	return nil
}

// String names the credentials by their files, for people.
func (a Auth) String() string {
	switch {
	case a.CredentialsFile != "":
		return "the credentials in " + a.CredentialsFile
	case a.NKeyFile != "":
		return "the nkey in " + a.NKeyFile
	case a.UserFile != "":
		return "the user and password in " + a.UserFile + " and " + a.PasswordFile
	case a.TokenFile != "":
		return "the token in " + a.TokenFile
	}
	return "a connection without credentials"
}

// apply reads the files into the options of one connection. wipe forgets the
// private key and has to be called when the connection stands.
func (a Auth) apply(o *natsgo.Options) (wipe func(), err error) {
	wipe = func() {}
	switch {
	case a.CredentialsFile != "":
		content, err := settings.ReadSecret("credentialsFile", a.CredentialsFile)
		if err != nil {
			return nil, err
		}
		jwt, err := nkeys.ParseDecoratedJWT(content)
		if err != nil || strings.Count(jwt, ".") != 2 {
			return nil, fmt.Errorf("auth: credentialsFile %s holds no user JWT", a.CredentialsFile)
		}
		key, err := nkeys.ParseDecoratedUserNKey(content)
		if err != nil {
			return nil, fmt.Errorf("auth: credentialsFile %s holds no seed of a user", a.CredentialsFile)
		}
		o.UserJWT = func() (string, error) { return jwt, nil }
		o.SignatureCB = key.Sign
		wipe = key.Wipe
	case a.NKeyFile != "":
		content, err := settings.ReadSecret("nkeyFile", a.NKeyFile)
		if err != nil {
			return nil, err
		}
		key, err := nkeys.ParseDecoratedUserNKey(content)
		if err != nil {
			return nil, fmt.Errorf("auth: nkeyFile %s holds no seed of a user", a.NKeyFile)
		}
		if o.Nkey, err = key.PublicKey(); err != nil {
			return nil, fmt.Errorf("auth: nkeyFile %s: %w", a.NKeyFile, err)
		}
		o.SignatureCB = key.Sign
		wipe = key.Wipe
	case a.UserFile != "":
		user, err := settings.ReadSecret("userFile", a.UserFile)
		if err != nil {
			return nil, err
		}
		password, err := settings.ReadSecret("passwordFile", a.PasswordFile)
		if err != nil {
			return nil, err
		}
		o.User, o.Password = string(user), string(password)
	case a.TokenFile != "":
		token, err := settings.ReadSecret("tokenFile", a.TokenFile)
		if err != nil {
			return nil, err
		}
		o.Token = string(token)
	}
	return wipe, nil
}
