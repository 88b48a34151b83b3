package main

import (
	"math/rand"
	"time"

	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rs/zerolog"
)

var toxicLogger zerolog.Logger

func registerToxics(logger zerolog.Logger) {
	toxicLogger = logger
	toxics.Register("corrupt", new(corruptToxic))
	toxics.Register("hold", new(holdToxic))
	toxics.Register("throttle", new(throttleToxic))
}

// eachChunk gives what comes in to `pass`, until that says no, the toxic is interrupted, or the stream ends.
func eachChunk(stub *toxics.ToxicStub, pass func(*stream.StreamChunk) bool) {
	for {
		select {
		case <-stub.Interrupt:
			return
		case chunk := <-stub.Input:
			if chunk == nil {
				stub.Close()
				return
			}
			if !pass(chunk) {
				return
			}
		}
	}
}

// corruptToxic flips bits of bytes that pass. A flip is logged as `flipped` with its offset in the connection's stream,
// counted from when the toxic was added, and with the byte before and after.
type corruptToxic struct {
	// After is the offset of the first byte that may be flipped.
	After int64 `json:"after"`
	// Probability is that of a flip for each further chunk; 0 flips the byte at After alone.
	Probability float64 `json:"probability"`
	// Mask says which bits of the byte are flipped; 0 stands for 1.
	Mask uint8 `json:"mask"`
	// Limit is the greatest number of flips in a connection; 0 stands for 1.
	Limit int64 `json:"limit"`
}

type corruptState struct {
	passed  int64
	flipped int64
}

func (t *corruptToxic) NewState() interface{} { return new(corruptState) }

func (t *corruptToxic) Pipe(stub *toxics.ToxicStub) {
	state := stub.State.(*corruptState)
	eachChunk(stub, func(chunk *stream.StreamChunk) bool {
		t.corrupt(chunk, state)
		stub.Output <- chunk
		return true
	})
}

func (t *corruptToxic) corrupt(chunk *stream.StreamChunk, state *corruptState) {
	length := int64(len(chunk.Data))
	start := state.passed
	state.passed += length
	if state.flipped >= max(t.Limit, 1) || state.passed <= t.After {
		return
	}
	at := max(t.After-start, 0)
	if start > t.After || (start == t.After && state.flipped > 0) {
		// The byte at After is behind us: only chance flips more.
		if rand.Float64() >= t.Probability {
			return
		}
		at = rand.Int63n(length)
	}
	before := chunk.Data[at]
	chunk.Data[at] ^= max(t.Mask, 1)
	state.flipped++
	toxicLogger.Info().Str("toxic", "corrupt").Int64("offset", start+at).
		Uint8("before", before).Uint8("after", chunk.Data[at]).Msg("flipped")
}

// holdToxic lets nothing pass and loses nothing, as a network does that is cut while TCP goes on trying: when the toxic
// is removed the bytes flow on, and the end of the stream is not seen either until then. (Toxiproxy's own `timeout`
// throws the bytes away, lets a close through, and closes the connection when it is removed.)
type holdToxic struct{}

func (t *holdToxic) Pipe(stub *toxics.ToxicStub) { <-stub.Interrupt }

// throttleToxic lets bytes pass at a rate; what comes faster waits. (Toxiproxy's own `bandwidth` knows whole KiB a second
// only, and a lab that is thirty times slower needs less.)
type throttleToxic struct {
	// Rate is in bytes a second; 0 stands for 1.
	Rate int64 `json:"rate"`
}

const throttleStepsPerSecond = 10

func (t *throttleToxic) Pipe(stub *toxics.ToxicStub) {
	eachChunk(stub, func(chunk *stream.StreamChunk) bool { return t.trickle(stub, chunk) })
}

// How long bytes are offered to a connection that may have closed, and has nobody to take them.
const flushSeconds = 5

// trickle sends a chunk on piece by piece. Interrupted, it sends the rest at once, or it would be lost, and says so.
func (t *throttleToxic) trickle(stub *toxics.ToxicStub, chunk *stream.StreamChunk) bool {
	rate := max(t.Rate, 1)
	piece := max(rate/throttleStepsPerSecond, 1)
	for rest := chunk.Data; len(rest) > 0; {
		size := min(piece, int64(len(rest)))
		due := time.After(time.Duration(size) * time.Second / time.Duration(rate))
		var output chan<- *stream.StreamChunk // nil, and not chosen, until the piece is due
	piece:
		for {
			select {
			case <-stub.Interrupt:
				all := &stream.StreamChunk{Data: rest, Timestamp: chunk.Timestamp}
				if err := stub.WriteOutput(all, flushSeconds*time.Second); err != nil {
					toxicLogger.Warn().Err(err).Str("toxic", "throttle").Int("bytes", len(rest)).Msg("not taken")
				}
				return false
			case <-due:
				output = stub.Output
			case output <- &stream.StreamChunk{Data: rest[:size], Timestamp: chunk.Timestamp}:
				break piece
			}
		}
		rest = rest[size:]
	}
	return true
}
