-- +goose Up

-- A fourth thing that happens to deliveries beside the log: a claim that is
-- registered already is given another place, by whoever may write there.
ALTER TABLE interventions DROP CONSTRAINT interventions_action_check;
ALTER TABLE interventions ADD CONSTRAINT interventions_action_check CHECK (action IN ('retry', 'park', 'drop', 'place'));

-- The images that claims were hung on so, besides those that they are about and
-- the one that they came for first: what is placed beside an image is found by it.
CREATE TABLE later_images (
    image bytea NOT NULL CHECK (octet_length(image) IN (32, 48, 64)),
    index bigint NOT NULL,
    PRIMARY KEY (index, image)
);
CREATE INDEX later_images_image ON later_images (substr(image, 1, 7), index);
