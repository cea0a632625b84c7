-- +goose Up

-- What the audit says of entries repeats: one policy, one rule, one signer, one
-- caller. A row of its own for each was a twentieth of what an entry costs, and a
-- page in the heap for each that is read. So an entry that has nothing of its own
-- to say names an earlier one, whose audit row speaks for both; NULL: it has its
-- own, as all had until now. An entry that came for an image always has: images
-- are found there.
ALTER TABLE entries ADD COLUMN audited bigint;

-- Each CHECK of a table is read and planned anew for every commit: one says it as
-- well as three. The fourth has a name of its own, for a commit that comes too late
-- is told by it.
ALTER TABLE heads DROP CONSTRAINT heads_grow, DROP CONSTRAINT heads_time, DROP CONSTRAINT heads_policy,
    ADD CONSTRAINT heads_sound CHECK (prev_size >= 0 AND size > prev_size AND iat >= prev_iat AND policy_index >= 0 AND policy_index < size);
