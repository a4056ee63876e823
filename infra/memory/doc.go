// Package memory keeps a replica from the kernel's killer. A Governor knows how much memory the process may
// use and how much is in use, and acts before the limit is reached:
//
//   - at 70 % whoever registered with OnPressure shrinks (caches, clients' buffers), and garbage is freed;
//   - at 85 % new exports and connections are refused, while what is under way goes on;
//   - what large requests hold at once is bounded by a share of the limit, however fast they come.
//
// It lets go again only a little below each mark, so that it does not flap. The collector gets a soft limit
// below the second mark: where the process is over it nevertheless, its memory is in use and not garbage.
//
//	g := memory.New(memory.Config{Logger: logger})
//	g.OnPressure(cache.Shrink)          // before Run
//	go g.Run(ctx)
//	if g.Shedding() { … }               // 503, Retry-After
//	g.Check()                           // after each chunk of something large
package memory
