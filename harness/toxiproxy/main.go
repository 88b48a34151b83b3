// The Toxiproxy server of the lab: Toxiproxy as it is, with two toxics more, `corrupt` and `hold`.
package main

import (
	"flag"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/rs/zerolog/log"
)

func main() {
	host := flag.String("host", "127.0.0.1", "address that the API listens on")
	port := flag.String("port", "8474", "port that the API listens on")
	config := flag.String("config", "", "JSON file of the proxies to start with")
	flag.Parse()

	logger := zerolog.New(os.Stdout).With().Timestamp().Logger()
	log.Logger = logger
	registerToxics(logger)

	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), logger)
	if *config != "" {
		server.PopulateConfig(*config)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- server.Listen(net.JoinHostPort(*host, *port)) }()

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	select {
	case err := <-stopped:
		logger.Fatal().Err(err).Msg("the API cannot be served")
	case <-signals:
	}
	if err := server.Shutdown(); err != nil {
		logger.Error().Err(err).Msg("shutdown")
	}
}
