// Command cadvisor serves cAdvisor's own metrics: its command is not published as a module, its libraries are.
//
// It takes the flags of the released command that say what is collected and where it is served, and registers the same
// kinds of containers and file systems. It lacks the pages for people, the remote API and the storage drivers.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/google/cadvisor/lib/cache/memory"
	"github.com/google/cadvisor/lib/container"
	"github.com/google/cadvisor/lib/manager"
	"github.com/google/cadvisor/lib/metrics"
	"github.com/google/cadvisor/lib/model"
	"github.com/google/cadvisor/lib/utils/sysfs"
	"github.com/google/cadvisor/lib/version"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	_ "github.com/google/cadvisor/container/docker/install"
	_ "github.com/google/cadvisor/container/podman/install"
	_ "github.com/google/cadvisor/fs/devicemapper/install"
	_ "github.com/google/cadvisor/lib/container/containerd/install"
	_ "github.com/google/cadvisor/lib/container/crio/install"
	_ "github.com/google/cadvisor/lib/container/systemd/install"
	_ "github.com/google/cadvisor/lib/fs/btrfs/install"
	_ "github.com/google/cadvisor/lib/fs/nfs/install"
	_ "github.com/google/cadvisor/lib/fs/overlay/install"
	_ "github.com/google/cadvisor/lib/fs/tmpfs/install"
	_ "github.com/google/cadvisor/lib/fs/vfs/install"
	_ "github.com/google/cadvisor/lib/fs/zfs/install"
)

// What the released command leaves out unless told otherwise.
var disabled = container.MetricSet{
	container.CPUSetMetrics:                  {},
	container.CPUTopologyMetrics:             {},
	container.HugetlbUsageMetrics:            {},
	container.MemoryNumaMetrics:              {},
	container.NetworkAdvancedTcpUsageMetrics: {},
	container.NetworkTcpUsageMetrics:         {},
	container.NetworkUdpUsageMetrics:         {},
	container.ProcessMetrics:                 {},
	container.ProcessSchedulerMetrics:        {},
	container.ReferencedMemoryMetrics:        {},
	container.ResctrlMetrics:                 {},
}

func main() {
	if err := run(); err != nil {
		klog.Fatal(err)
	}
}

func run() error {
	enabled := container.MetricSet{}
	address := flag.String("listen_ip", "", "address to listen on; all of them when empty")
	port := flag.Int("port", 8080, "port to listen on")
	duration := flag.Duration("storage_duration", 2*time.Minute, "how long to keep what was measured")
	labels := flag.Bool("store_container_labels", true, "make labels of a container's labels and environment")
	allowedLabels := flag.String("whitelisted_container_labels", "", "labels to keep where the others are not stored")
	allowedCgroups := flag.String("raw_cgroup_prefix_whitelist", "", "cgroups to report in spite of --docker_only")
	allowedVariables := flag.String("env_metadata_whitelist", "", "prefixes of environment variables to collect")
	answerVersion := flag.Bool("version", false, "print the version")
	flag.Var(&disabled, "disable_metrics", "kinds of metrics to leave out")
	flag.Var(&enabled, "enable_metrics", "the only kinds of metrics to collect")
	klog.InitFlags(nil)
	flag.Parse()
	if *answerVersion {
		fmt.Printf("cAdvisor version %s\n", version.Info["version"])
		return nil
	}

	if len(enabled) == 0 {
		enabled = container.AllMetrics.Difference(disabled)
	}
	watched, err := manager.New(
		memory.New(*duration, nil), sysfs.NewRealSysFs(), manager.HousekeepingConfigFlags, enabled,
		strings.Split(*allowedCgroups, ","), strings.Split(*allowedVariables, ","), "", 0,
	)
	if err != nil {
		return err
	}
	if err := watched.Start(); err != nil {
		return err
	}

	names := metrics.DefaultContainerLabels
	if !*labels {
		names = metrics.BaseContainerLabels(strings.Split(*allowedLabels, ","))
	}
	newest := model.RequestOptions{IdType: model.TypeName, Count: 1, Recursive: true}
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		metrics.NewPrometheusCollector(watched, names, enabled, clock.RealClock{}, newest),
		metrics.NewPrometheusMachineCollector(watched, enabled),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	options := promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}
	http.Handle("/metrics", promhttp.HandlerFor(registry, options))
	http.HandleFunc("/healthz", func(answer http.ResponseWriter, _ *http.Request) { fmt.Fprint(answer, "ok") })

	ended := make(chan error, 1)
	go func() { ended <- http.ListenAndServe(fmt.Sprintf("%s:%d", *address, *port), nil) }()
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, os.Interrupt, syscall.SIGTERM)
	select {
	case err := <-ended:
		return errors.Join(err, watched.Stop())
	case <-asked:
		return watched.Stop()
	}
}
