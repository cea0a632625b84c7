/*
 * How the ledger commits: two replicas on one database, clients that submit the
 * same bytes again and again, a policy that changes meanwhile, and the Couriers.
 * README.md says what this proves, what it leaves out, and which function each
 * step stands for.
 *
 * One step is one call to the store or the registry, together with what a process
 * does in its own memory before the next one. Between two steps anything may
 * happen: the other replica, a client, a commit that was believed lost, a crash.
 *
 * Each #ifdef below, but those of the bounds, seeds one bug. ./run shows that
 * every one of them is found; else "no errors" would say little.
 */

/* Bounds of one history: how much goes wrong in it. */
#ifndef CRASHES
#define CRASHES 1		/* of a replica or a Courier */
#endif
#ifndef FAULTS
#define FAULTS 2		/* commits that end in an error: failed for sure, or unknown */
#endif
#ifndef TROUBLES
#define TROUBLES 1		/* of the registry */
#endif
#ifndef OVERTIMES
#define OVERTIMES 1		/* leases and turns that end under their holder's hands */
#endif

/* Whether commits are made in turn, or nobody ever asks for one (0). */
#ifndef TURNS
#define TURNS 1
#endif

/* How often each statement is submitted, to either replica. */
#ifndef TRIES_A
#define TRIES_A 2
#endif
#ifndef TRIES_B
#define TRIES_B 1
#endif
#ifndef TRIES_P
#define TRIES_P 1
#endif
#define WAITING (TRIES_A + TRIES_B + TRIES_P)

/* Without Couriers (0) deliveries stay queued; two race. */
#ifndef COURIERS
#define COURIERS 2
#endif

/* Statements, by entry ID. P is a policy statement. */
#define A 1
#define B 2
#define P 3
#define IDS 4
#define letter(id) (id == P -> 'P' : 'A' - 1 + id)

/* Policies. OLD is leaf 0; NEW is in force behind P. */
#define OLD 0
#define NEW 1
#define DOWN 2			/* none: this replica is not serving */

/* Evaluate: B may enter under OLD only, and so may P, which says that it follows OLD. */
#define admits(policy, id) (policy == OLD || id == A)

/*
 * A submission is an entry ID with the policy of its Decision, and so is a row of
 * entries. Lists of rows are numbers in base 8, the first row lowest. A tree is
 * its leaves in base 4 behind leaf 0: equal roots are equal contents.
 */
#define row(id, policy) ((id) + 4 * (policy))
#define idOf(w) ((w) & 3)
#define policyOf(w) (((w) >> 2) & 1)
#define first(list) ((list) & 7)
#define rest(list) ((list) >> 3)
#define put(list, w) ((list) | ((w) << (3 * rows(list))))
#define rows(list) (((list) > 0) + ((list) > 7) + ((list) > 63))
#define grow(tree, id) ((tree) * 4 + (id))
#define EMPTY 0
#define LEAF0 1

/* A broken invariant is reported by its name. */
#define must(name, condition) name = (condition); assert(name)
hidden byte one_root_per_size, root_is_of_the_leaves, index_is_of_the_leaves,
	index_used_once, one_leaf_per_statement, judged_under_policy_in_force,
	refusal_is_final, acknowledged_is_stored, same_bytes_same_receipt,
	published_exactly_once;

/* Scratch within one step, no part of the state. */
hidden byte w, id, at, i, n, todo;
hidden short list, tree;
hidden byte closed, twin;

/*
 * The store. It survives everything, and no row of it ever changes but a
 * delivery's.
 */
#define MAX 8			/* leaf 0, each statement, and room for a bug's batch */
byte size = 1;			/* of the newest head */
short head[MAX];		/* roots of the heads by size; 0: no such head */
byte leaf[MAX];			/* entries by index */
byte index[IDS];		/* their index by entry ID; 0: none */

#define NONE 0
#define QUEUED 1
#define DONE 2
#define FREE 0
byte delivery[IDS];		/* state, by entry; P steers the ledger and has none */
byte lease[IDS];		/* 1 + the Courier that holds it */

byte referrers;			/* the registry's list, a bit for each manifest */

/* What may still go wrong. */
byte crashes = CRASHES, faults = FAULTS, troubles = TROUBLES, overtimes = OVERTIMES;

/* Commits whose answer got lost. They reach the database later, or never. */
typedef Batch {
	byte prev;		/* PrevSize; 0: nothing is in flight */
	short entries;
	short root
}
Batch inFlight[FAULTS + 1];

/* What clients were told. Only assertions read it. */
byte acked[IDS];
bool refused[IDS];
#define receipt(at, n) ((at) * 8 + (n))
#define indexIn(receipt) ((receipt) / 8)

/* Whose turn it is to commit, by the lock on the newest head's row: 1 + replica. */
byte turn = FREE;
#define mayCommit(r) (turn == FREE || turn == 1 + r)
#define leaveTurn(r) turn = (turn == 1 + r -> FREE : turn)

/* What a replica's sequencer shares with its callers. */
chan queue[2] = [WAITING] of { byte };
byte current[2] = DOWN;		/* the policy, as far as this replica has seen the log */

/* inspect recomputes the log from its leaves, as ledgertest.CheckLog does. */
inline inspect() {
	tree = LEAF0;
	for (i : 1 .. size - 1) {
		must(index_is_of_the_leaves, index[leaf[i]] == i);
		tree = grow(tree, leaf[i])
	}
	must(root_is_of_the_leaves, head[size] == tree);
	for (i : A .. P) {
		must(index_is_of_the_leaves, index[i] == 0 || leaf[index[i]] == i);
		must(acknowledged_is_stored, acked[i] == 0 || leaf[indexIn(acked[i])] == i)
	}
}

/* tell lets a receipt out: entry id is at index at, under the head of size n. */
inline tell(id, at, n, root) {
	printf("    receipt: %c is at index %d, under the head of size %d\n", letter(id), at, n);
	must(acknowledged_is_stored, at < size && leaf[at] == id);
	must(one_root_per_size, head[n] == root);
	must(same_bytes_same_receipt, acked[id] == 0 || acked[id] == receipt(at, n));
	acked[id] = receipt(at, n)
}

/* tellStored does so for an entry read back; its head is HeadFor's. */
inline tellStored(id) {
	at = index[id];
#ifdef RECEIPT_UNDER_NEWEST_HEAD
	n = size;
#else
	n = at + 1;
	do
	:: n < size && head[n] == 0 -> n++
	:: else -> break
	od;
#endif
	tell(id, at, n, head[n])
}

/* refuse tells a client that the policy in force does not admit the statement. */
inline refuse(id) {
	printf("    refused: %c\n", letter(id));
	must(refusal_is_final, index[id] == 0);
	refused[id] = true
}

/*
 * wins says whether a batch's head can be inserted: the compare-and-swap. Besides
 * it only UNIQUE on the entry ID keeps a batch out, which is how a replica that did
 * not look for known statements learns of one. The tables have more nets; they are
 * left out here to show that nobody falls into them.
 */
#if defined(NO_COMPARE_AND_SWAP)
#define wins(prev, entries) true
#elif defined(TURN_IN_PLACE_OF_SWAP)
#define wins(prev, entries) (inTurn || prev == size)
#elif defined(HEADS_UNIQUE_BY_SIZE_ONLY)
#define wins(prev, entries) (head[prev + rows(entries)] == 0)
#else
#define wins(prev, entries) (prev == size)
#endif

/* stored says whether a row of a batch is there already: it may have three. */
#ifdef ENTRY_ID_NOT_UNIQUE
#define stored(entries) false
#else
#define isStored(list) ((list) > 0 && index[idOf(list)] != 0)
#define stored(entries) (isStored(entries) || isStored(rest(entries)) || isStored(rest(rest(entries))))
#endif

/* commit writes all of a batch in one step. */
inline commit(from, added, signed) {
	must(one_root_per_size, head[from + rows(added)] == 0);
	head[from + rows(added)] = signed;
	at = from;
	list = added;
	do
	:: list != EMPTY ->
		w = first(list);
		list = rest(list);
		id = idOf(w);
		must(index_used_once, leaf[at] == 0);
		leaf[at] = id;
		must(one_leaf_per_statement, index[id] == 0);
#ifndef INDEX_AFTER_COMMIT
		index[id] = at;
#endif
		must(judged_under_policy_in_force, policyOf(w) == (index[P] != 0 && index[P] < at));
		must(judged_under_policy_in_force, admits(policyOf(w), id));
		must(refusal_is_final, !refused[id]);
#ifndef DELIVERIES_AFTER_COMMIT
		delivery[id] = (id == P -> NONE : QUEUED);
#endif
		at++
	:: else -> break
	od;
	size = at;
	inspect();
	printf("    committed: the head of size %d\n", size)
}

/*
 * InFlight is a commit between a replica that gave it up and the database. While
 * such a one holds the head's row, an insert of the same waits for its end: that
 * is the order in which this one arrives first.
 */
proctype InFlight(byte f) {
end:	atomic {
		inFlight[f].prev != 0;
		if
		:: d_step {
#ifdef TURN_IN_PLACE_OF_SWAP
			inFlight[f].prev == size && !stored(inFlight[f].entries) ->
#else
			wins(inFlight[f].prev, inFlight[f].entries) && !stored(inFlight[f].entries) ->
#endif
			printf("in flight: a commit arrives\n");
			commit(inFlight[f].prev, inFlight[f].entries, inFlight[f].root)
		   }
		:: printf("in flight: a commit is lost, or beaten\n")
		fi;
		d_step { inFlight[f].prev = 0; inFlight[f].entries = EMPTY; inFlight[f].root = 0 }
	}
}

inline forget() {
	prev = 0; edge = 0; entries = EMPTY; root = 0
}

inline dropBatch() {
	do
	:: batch?w
	:: empty(batch) -> break
	od
}

/*
 * crash takes all that a replica remembers, its queue included: those who wait
 * get no answer. What is in flight stays in flight.
 */
inline crash() {
	atomic {
		crashes > 0;
		d_step {
			crashes--;
			do
			:: queue[r]?w
			:: empty(queue[r]) -> break
			od;
			dropBatch();
			forget();
			leaveTurn(r);
			current[r] = DOWN;
			printf("replica %d: crashes\n", r)
		};
		goto Open
	}
}

/*
 * load reads the newest head and what stands on it. Rows under a head never
 * change, so all of it is as of the moment in which the head was read.
 */
inline load() {
	d_step {
		prev = size;
		edge = head[size];
		inForce = (index[P] == 0 -> OLD : NEW);
		current[r] = inForce;
		printf("replica %d: loads the head of size %d\n", r, size)
	}
}

/* judge is the policy of w's Decision once it stands. */
#ifdef POLICY_NOT_JUDGED_AGAIN
#define judge(w) policyOf(w)
#else
#define judge(w) inForce
#endif

/*
 * draft tells what is there already, refuses what the policy does not admit, and
 * makes rows and root of the others. What it would refuse it looks up in any case,
 * everything only if looks: the commit fails for what is there then. A policy
 * statement closes the batch. What has no answer yet stays in batch, in its order:
 * admitted ones, twins of them, and what is left behind the policy statement.
 */
inline draft(looks) {
	closed = false;
	root = edge;
	todo = len(batch);
	do
	:: todo > 0 ->
		todo--;
		batch?w;
		id = idOf(w);
		twin = false;
		list = entries;
		do
		:: list != EMPTY -> twin = twin || idOf(list) == id; list = rest(list)
		:: else -> break
		od;
		if
		:: looks && index[id] != 0 -> tellStored(id)
		:: else ->
			if
			:: closed || twin -> batch!w
			:: else ->
				if
				:: admits(judge(w), id) ->
					batch!w;
					entries = put(entries, row(id, judge(w)));
					root = grow(root, id);
#ifndef POLICY_LEAVES_BATCH_OPEN
					closed = (id == P)
#endif
#ifndef REFUSED_WITHOUT_LOOKUP
				:: !admits(judge(w), id) && index[id] != 0 -> tellStored(id)
#endif
				:: else -> refuse(id)
				fi
			fi
		fi
	:: else -> break
	od;
#ifdef TREE_GROWN_IN_PLACE
	edge = root;
#endif
#ifdef POLICY_IN_FORCE_BEFORE_COMMIT
	inForce = (closed -> NEW : inForce);
	current[r] = inForce;
#endif
	if
	:: entries == EMPTY -> root = 0
	:: else -> printf("replica %d: signs a head of size %d\n", r, prev + rows(entries))
	fi
}

/* tellBatch answers everything in the batch that was committed at prev. */
inline tellBatch() {
	n = prev + rows(entries);
	closed = false;
	todo = len(batch);
	do
	:: todo > 0 ->
		todo--;
		batch?w;
		id = idOf(w);
		if
		:: closed -> batch!w
		:: else ->
			closed = (id == P);
			at = prev;
			list = entries;
			do
			:: idOf(list) != id -> at++; list = rest(list)
			:: else -> break
			od;
			tell(id, at, n, root)
		fi
	:: else -> break
	od
}

/* believe takes what was committed for the log. */
inline believe() {
	list = entries;
	do
	:: list != EMPTY ->
		id = idOf(list);
		list = rest(list);
		prev++;
		inForce = (id == P -> NEW : inForce);
		current[r] = (id == P -> NEW : current[r]);
#ifdef INDEX_AFTER_COMMIT
		index[id] = prev - 1;
#endif
#ifdef DELIVERIES_AFTER_COMMIT
		delivery[id] = (id == P -> NONE : QUEUED);
#endif
	:: else -> break
	od;
	edge = root;
	entries = EMPTY;
	root = 0
}

/* Sequencer is the only process of replica r that grows the log. */
proctype Sequencer(byte r) {
	chan batch = [WAITING] of { byte };	/* not answered yet */
	byte prev;				/* size of the head it stands on; 0: to be loaded */
	short edge;				/* the tree of that size */
	byte inForce;				/* the policy at that size; callers may know a newer one */
	short entries;				/* of the draft */
	short root;				/* signed, and nobody has seen it */
#ifdef TURN_IN_PLACE_OF_SWAP
	bool inTurn;
#endif

Open:	load();		/* before anybody is served */

Take:	/* Natural group commit: whatever queued during the previous one. A crash
	 * of an idle replica costs nothing but a load, so there is none. */
end:	atomic {
		nempty(queue[r]);
		if
		:: d_step {
			do
			:: queue[r]?w -> batch!w
			:: empty(queue[r]) -> break
			od
		   }
		:: crash()
		fi;
		if
		:: prev == 0 -> goto Load
		:: prev != 0 -> goto Known
		:: TURNS -> goto Turn
		fi
	}

Turn:	/* 1. The newest head, with others kept from committing: after a conflict, and
	 * for a while. When that is does not matter to what is proved, so it may be in
	 * any round. What queued during the wait comes along. A turn that is lost is
	 * one that never was, but its holder does not know. */
	atomic {
		if
		:: turn == FREE -> turn = 1 + r
		:: turn == FREE && overtimes > 0 -> overtimes--; printf("replica %d: loses its turn\n", r)
		:: crash()
		fi;
		load();
		d_step {
			do
			:: queue[r]?w -> batch!w
			:: empty(queue[r]) -> break
			od
#ifdef TURN_IN_PLACE_OF_SWAP
			; inTurn = true
#endif
		};
		goto Known
	};

Load:	/* 1. The newest head and its edge, when the last round did not leave them. */
	if
	:: load()
	:: crash()
	fi;

Known:	/* 2. to 4. Known ones keep their entry, if somebody looked. The others are
	 * judged, a copy of the edge grows and is signed: that leaves no memory, so it
	 * is the same step. */
	atomic {
		if
		:: d_step { draft(true) }
		:: d_step { draft(false) }
		:: crash()
		fi;
		if
		:: entries == EMPTY -> leaveTurn(r); goto Take
		:: else
		fi
	}

#ifdef RELEASE_BEFORE_COMMIT
	d_step { tellBatch() };
#endif

Commit:	/* 5. The one durable point. */
	atomic {
		if
		:: d_step {
			mayCommit(r) && wins(prev, entries) && !stored(entries) ->
			printf("replica %d: commits\n", r);
			commit(prev, entries, root);
			leaveTurn(r)
		   };
		   goto Believe
		:: !wins(prev, entries) ->
		   printf("replica %d: conflict\n", r);
		   goto Fault
		:: wins(prev, entries) && stored(entries) ->
		   printf("replica %d: some of it is there already\n", r);
		   /* Nothing was written, and what this replica knows still holds. */
		   d_step {
			entries = EMPTY;
			root = 0;
			leaveTurn(r)
#ifdef TURN_IN_PLACE_OF_SWAP
			; inTurn = false
#endif
		   };
		   if
		   :: goto Known
		   :: TURNS -> goto Turn
		   fi
		:: faults > 0 ->	/* known: nothing was written */
		   faults--;
		   printf("replica %d: the commit has failed\n", r);
#ifdef TREE_GROWN_IN_PLACE
		   /* The tempting half: nothing was written, so why load? */
		   d_step { entries = EMPTY; root = 0 };
		   goto Known;
#endif
		   goto Fault
		:: faults > 0 ->	/* unknown */
		   d_step {
			faults--;
			inFlight[faults].prev = prev;
			inFlight[faults].entries = entries;
			inFlight[faults].root = root;
			printf("replica %d: the commit ends in an unknown outcome\n", r)
		   };
#ifdef UNKNOWN_IS_SUCCESS
		   goto Believe;
#endif
		   goto Fault
		:: crash()
		fi
	};

Believe: /* 6. Known to be committed: believe it, then answer. */
	atomic {
		if
		:: d_step {
#ifndef RELEASE_BEFORE_COMMIT
			tellBatch();
#endif
			believe()
		   }
		:: crash()
		fi;
#ifdef TURN_IN_PLACE_OF_SWAP
		inTurn = false;
#endif
		if
		:: empty(batch) -> goto Take
		:: nempty(batch) -> goto Known	/* left behind a policy statement */
		:: TURNS && nempty(batch) -> goto Turn
		fi
	};

Fault:	/* Whatever it was, forget; the way back is the way in. After enough tries the
	 * rest is told 503, which promises nothing. */
	atomic {
		d_step {
			forget()
#ifndef TURN_KEPT_AFTER_ERROR
			; leaveTurn(r)
#endif
#ifdef TURN_IN_PLACE_OF_SWAP
			; inTurn = false
#endif
		};
		if
		:: goto Load
		:: TURNS -> goto Turn
		:: d_step { dropBatch() }; goto Take
		fi
	}
}

/* The manifest is a function of the claim, whoever makes it and how often. */
#ifdef MANIFEST_OF_ITS_MAKER
#define manifest(d, c) (1 << (d + 4 * c))
#else
#define manifest(d, c) (1 << d)
#endif
#define copies(d) (((referrers >> d) & 1) + ((referrers >> (d + 4)) & 1))

/* A Courier that crashes leaves a lease behind, which runs out some day. */
inline dies() {
	crashes > 0 ->
	crashes--;
	printf("courier %d: crashes\n", c);
	lease[d] = FREE;
	d = 0;
	goto Due
}

proctype Courier(byte c) {
	byte d;				/* the entry whose delivery is in hand */

Due:	/* A lease keeps others off, while it lasts. */
end:	atomic {
		if
		:: delivery[A] == QUEUED && lease[A] == FREE -> d = A
		:: delivery[B] == QUEUED && lease[B] == FREE -> d = B
		:: delivery[A] == QUEUED && lease[A] != FREE && overtimes > 0 -> overtimes--; d = A
		:: delivery[B] == QUEUED && lease[B] != FREE && overtimes > 0 -> overtimes--; d = B
		fi;
		lease[d] = 1 + c;
		printf("courier %d: leases the delivery of %c\n", c, letter(d))
	};

Place:	atomic {
		if
		:: referrers = referrers | manifest(d, c);
		   printf("courier %d: places\n", c)
		:: troubles > 0 ->
			troubles--;
			if
			:: printf("courier %d: an error, and nothing placed\n", c);
			   goto Later
			:: referrers = referrers | manifest(d, c);
			   printf("courier %d: an error, yet placed\n", c);
			   goto Later
			:: printf("courier %d: no error, yet nothing placed\n", c)
			fi
		:: dies()
		fi
	};

#ifndef SETTLED_WITHOUT_READ_BACK
Read:	/* the referrers list back. */
	atomic {
		if
		:: (referrers & manifest(d, c)) != 0
		:: (referrers & manifest(d, c)) == 0 -> goto Later
		:: dies()
		fi
	};
#endif

Settle:	atomic {
		if
		:: delivery[d] = DONE;
		   printf("courier %d: settles\n", c)
		:: dies()
		fi
	};

Later:	/* Settled, or queued for one more try: the lease ends. That changes nothing
	 * in what somebody else has settled. */
	atomic {
		lease[d] = FREE;
		d = 0;
		goto Due
	}
}

/*
 * submit is registrar.Register up to the queue. Between the decision and the
 * queue there may be a long time; being long in the queue covers that.
 */
inline submit(r) {
	tries--;
	printf("client: submits %c to replica %d\n", letter(id), r);
	if
	:: admits(current[r], id) -> queue[r]!row(id, current[r])
	:: else ->
		if
		:: index[id] != 0 -> tellStored(id)
		:: else -> refuse(id)
		fi
	fi
}

/*
 * Client submits one statement some times, at any moment, to either replica, and
 * does not wait for an answer. Real clients, who resubmit after an error, after
 * silence or without reason, do nothing else. Between two submissions a replica
 * may have looked at the newest head and know its policy.
 */
proctype Client(byte s, tries) {
	/* The replicas are alike: 0 is the one that hears of A first. That halves the
	 * histories, and leaves none out. */
	if
	:: s == A -> d_step { current[0] != DOWN -> id = s; submit(0) }
	:: s != A
	fi;
	do
	:: d_step { tries > 0 && current[0] != DOWN -> id = s; submit(0) }
	:: d_step { tries > 0 && current[1] != DOWN -> id = s; submit(1) }
	:: d_step { tries > 0 && current[0] == OLD && index[P] != 0 -> current[0] = NEW }
	:: d_step { tries > 0 && current[1] == OLD && index[P] != 0 -> current[1] = NEW }
	:: tries == 0 -> break
	od
}

init {
	atomic {
		head[1] = LEAF0;
		for (i : 1 .. FAULTS) {
			run InFlight(i - 1)
		}
		run Sequencer(0);
		run Sequencer(1);
#if COURIERS
		for (i : 1 .. COURIERS) {
			run Courier(i - 1)
		}
#endif
		run Client(A, TRIES_A);
		run Client(B, TRIES_B);
		run Client(P, TRIES_P)
	};

	/* At rest: nobody has anything to do any more, so nothing can go wrong either. */
	timeout;
	d_step {
		inspect();
		for (i : A .. B) {
			if
			:: index[i] == 0 || COURIERS == 0 ->
				must(published_exactly_once, delivery[i] == (index[i] == 0 -> NONE : QUEUED));
				must(published_exactly_once, copies(i) == 0)
			:: else ->
				must(published_exactly_once, delivery[i] == DONE);
				must(published_exactly_once, copies(i) == 1)
			fi
		}
	}
}
