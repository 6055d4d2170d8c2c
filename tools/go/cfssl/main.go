// CFSSL's own commands with a sqlite that is no C, so that any machine builds it for any other.
package main

import (
	"database/sql"
	"database/sql/driver"
	"os"
	"strings"

	"github.com/cloudflare/cfssl/cli"
	"github.com/cloudflare/cfssl/cli/certinfo"
	"github.com/cloudflare/cfssl/cli/crl"
	"github.com/cloudflare/cfssl/cli/gencert"
	"github.com/cloudflare/cfssl/cli/info"
	"github.com/cloudflare/cfssl/cli/revoke"
	"github.com/cloudflare/cfssl/cli/serve"
	"github.com/cloudflare/cfssl/cli/sign"
	"github.com/cloudflare/cfssl/cli/version"
	"modernc.org/sqlite"
)

// As the C driver, which CFSSL usually has, does it with a certdb in WAL mode: no flush for each
// commit, and times in sqlite's own format.
const asUsual = "_synchronous=normal&_time_format=sqlite"

type usual struct{ sqlite.Driver }

func (its *usual) Open(name string) (driver.Conn, error) {
	mark := "?"
	if strings.Contains(name, "?") {
		mark = "&"
	}
	return its.Driver.Open(name + mark + asUsual)
}

func main() {
	sql.Register("sqlite3", &usual{})
	err := cli.Start(map[string]*cli.Command{
		"certinfo": certinfo.Command,
		"crl":      crl.Command,
		"gencert":  gencert.Command,
		"info":     info.Command,
		"revoke":   revoke.Command,
		"serve":    serve.Command,
		"sign":     sign.Command,
		"version":  version.Command,
	})
	if err != nil {
		os.Exit(1)
	}
}
