// A web server: goroutines, channels, timers and the garbage collector behind a few pages.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"time"
)

const workers = 100

// sum adds the numbers from 1 to n in many goroutines.
func sum(n int) int {
	numbers, sums := make(chan int), make(chan int)
	for range workers {
		go func() {
			total := 0
			for number := range numbers {
				total += number
			}
			sums <- total
		}()
	}
	for number := 1; number <= n; number++ {
		numbers <- number
	}
	close(numbers)
	total := 0
	for range workers {
		total += <-sums
	}
	return total
}

// allocate makes garbage, and tells whether the collector ran meanwhile.
func allocate() bool {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	kept := map[int][]byte{}
	for i := range 2000 {
		kept[i%50] = make([]byte, 100000)
	}
	runtime.ReadMemStats(&after)
	return after.NumGC > before.NumGC && len(kept) == 50
}

func main() {
	var mutex sync.Mutex
	visits := 0
	http.HandleFunc("/visits", func(writer http.ResponseWriter, _ *http.Request) {
		mutex.Lock()
		defer mutex.Unlock()
		visits++
		fmt.Fprint(writer, visits)
	})
	http.HandleFunc("/sum", func(writer http.ResponseWriter, request *http.Request) {
		n, err := strconv.Atoi(request.FormValue("n"))
		if err != nil {
			http.Error(writer, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprint(writer, sum(n))
	})
	http.HandleFunc("/echo", func(writer http.ResponseWriter, request *http.Request) {
		// All of it first: a client that sends before it reads would wait for a server that writes before it has read.
		body, err := io.ReadAll(request.Body)
		if err != nil {
			http.Error(writer, err.Error(), http.StatusBadRequest)
			return
		}
		writer.Write(body)
	})
	http.HandleFunc("/garbage", func(writer http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(writer, allocate())
	})
	http.HandleFunc("/wait", func(writer http.ResponseWriter, _ *http.Request) {
		start := time.Now()
		select {
		case <-time.After(50 * time.Millisecond):
		case <-time.After(time.Hour):
		}
		fmt.Fprint(writer, time.Since(start) >= 50*time.Millisecond)
	})
	listener, err := net.Listen("tcp4", ":8080")
	if err != nil {
		panic(err)
	}
	fmt.Println("serving")
	panic(http.Serve(listener, nil))
}
