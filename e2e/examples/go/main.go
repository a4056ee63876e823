// A back end in Go. It pays orders, publishes in the transaction that pays, and signs tokens for its users.
package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer pool.Close()
	if _, err = pool.Exec(ctx, `CREATE TABLE IF NOT EXISTS go_orders (id bigint PRIMARY KEY, status text NOT NULL)`); err != nil {
		return fmt.Errorf("make the table: %w", err)
	}
	if _, err = pool.Exec(ctx, `INSERT INTO go_orders VALUES (42, 'new') ON CONFLICT DO NOTHING`); err != nil {
		return fmt.Errorf("make an order: %w", err)
	}
	s := &server{pool: pool, secret: []byte(os.Getenv("FORGEWIRE_TOKEN_SECRET"))}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders/{id}/pay", s.pay)
	mux.HandleFunc("GET /token", s.token)
	ln, err := net.Listen("tcp", "localhost:"+os.Getenv("WEB_PORT"))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	fmt.Println("http://" + ln.Addr().String())
	return (&http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}).Serve(ln)
}

type server struct {
	pool   *pgxpool.Pool
	secret []byte
}

// pay answers when the order is paid and the message will go out, or neither.
func (s *server) pay(w http.ResponseWriter, r *http.Request) {
	err := pgx.BeginFunc(r.Context(), s.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(r.Context(), `UPDATE go_orders SET status = 'paid' WHERE id = $1`, r.PathValue("id"))
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return pgx.ErrNoRows
		}
		// A retry of this request is not a second message.
		_, err = tx.Exec(r.Context(), `SELECT forgewire.publish('orders:' || $1::text, '{"status": "paid"}', 'paid')`, r.PathValue("id"))
		return err
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		http.Error(w, "no such order", http.StatusNotFound)
	case err != nil:
		log.Print(err)
		http.Error(w, "try again", http.StatusServiceUnavailable)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

// token signs who the user is, and subscribes him to his orders from the server, so that his page need not ask.
func (s *server) token(w http.ResponseWriter, r *http.Request) {
	user := r.URL.Query().Get("user") // your own session goes here
	claims := map[string]any{"sub": user, "exp": time.Now().Add(10 * time.Minute).Unix(), "channels": []string{"orders:42"}}
	body, err := json.Marshal(claims)
	if err != nil || user == "" {
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode(body)
	mac := hmac.New(sha256.New, s.secret)
	mac.Write([]byte(signed))
	fmt.Fprint(w, signed+"."+encode(mac.Sum(nil)))
}
